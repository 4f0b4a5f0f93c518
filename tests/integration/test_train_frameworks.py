"""The trainers of Hugging Face and Lightning stop at a notice, and what resumes is what would have been."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.documents import ROOT

from modelworks import train
from modelworks.train import group, layout, stop
from modelworks.train.checkpointer import Checkpointer

torch = pytest.importorskip("torch")
STEPS, STOP = 12, 7


@pytest.fixture
def notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "notice.json"
    monkeypatch.setenv("MW_NOTICE_FILE", str(path))
    monkeypatch.setenv("MW_PROGRESS_FILE", str(tmp_path / "progress.json"))
    monkeypatch.setattr(stop, "_watching", True)  # the signals of this process are the tests'
    assert group.size() == 1
    return path


def _tell(notice: Path) -> None:
    notice.write_text(json.dumps({"at": time.time(), "deadline": time.time() + 60, "reason": "Preempted"}))


def _steps(folder: Path) -> list[int]:
    return [place.step for place in layout.places(folder)]


class Rows:
    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": torch.linspace(0, index, 4), "labels": torch.tensor(index % 2)}


def _network() -> Any:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))


def test_hugging_face(tmp_path: Path, notice: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from modelworks.train.huggingface import CheckpointCallback  # noqa: PLC0415

    class Model(torch.nn.Module):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = _network()

        def forward(self, x: Any, labels: Any) -> dict[str, Any]:
            logits = self.network(x)
            return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}

    class At(transformers.TrainerCallback):  # type: ignore[misc,name-defined]
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == STOP - 1:
                _tell(notice)

    def run(name: str, *more: Any) -> tuple[Any, Any]:
        folder = tmp_path / name
        arguments = transformers.TrainingArguments(
            output_dir=str(folder / "trainer"), max_steps=STEPS, per_device_train_batch_size=2, seed=1,
            save_strategy="no", report_to=[], disable_tqdm=True, use_cpu=True, logging_steps=1,
        )  # fmt: skip
        callback = CheckpointCallback(folder / "checkpoints", every=5)
        model = Model()
        trainer = transformers.Trainer(model, arguments, train_dataset=Rows(), callbacks=[callback, *more])
        trainer.train(resume_from_checkpoint=callback.resume())
        return trainer, [value.tolist() for value in model.state_dict().values()]

    whole, expected = run("whole")
    assert whole.state.global_step == STEPS
    assert _steps(tmp_path / "whole" / "checkpoints") == [5, 10]
    stopped, _ = run("stopped", At())
    assert stopped.state.global_step == STOP
    assert _steps(tmp_path / "stopped" / "checkpoints") == [5, STOP]
    notice.unlink()
    resumed, weights = run("stopped")
    assert (resumed.state.global_step, weights) == (STEPS, expected)
    seen = json.loads((tmp_path / "progress.json").read_text())
    assert (seen["step"], seen["steps"]) == (STEPS, STEPS)


@pytest.mark.timeout(600)
def test_hugging_face_in_two_processes(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    command = [sys.executable, "-m", "tests.train_huggingface", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads((tmp_path / "told.json").read_text())
    whole = told["whole"]["ranks"]
    assert [step for step, _ in whole] == [STEPS, STEPS]
    assert whole[0][1] == whole[1][1]
    assert told["whole"]["steps"] == [5, 10]
    # A notice to one of them ends both on the same step, and what goes on ends as what was not disturbed.
    assert [step for step, _ in told["stopped"]["ranks"]] == [STOP, STOP]
    assert told["stopped"]["steps"] == [5, STOP]
    assert told["resumed"]["ranks"] == whole
    assert (told["killed"]["ranks"], told["killed"]["steps"]) == ([], [5])
    assert told["repeated"]["ranks"] == whole


def test_lightning(tmp_path: Path, notice: Path) -> None:
    pl = pytest.importorskip("pytorch_lightning")
    from modelworks.train.lightning import CheckpointCallback  # noqa: PLC0415

    class Model(pl.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.network = _network()
            self.seen: list[Any] = []

        def training_step(self, batch: Any, _: int) -> Any:
            if self.trainer.global_step == STOP - 1 and not (tmp_path / "told").exists():
                (tmp_path / "told").touch()
                _tell(notice)
            self.seen.append(batch["x"][:, -1].tolist())
            return torch.nn.functional.cross_entropy(self.network(batch["x"]), batch["labels"])

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.01)

    def run(name: str) -> tuple[Any, Any, Any]:
        model = Model()
        loader = train.Loader(torch.utils.data.DataLoader(Rows(), batch_size=4, shuffle=True), seed=2)
        callback = CheckpointCallback(tmp_path / name, every=5)
        trainer = pl.Trainer(
            max_steps=STEPS, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path,
        )  # fmt: skip
        trainer.fit(model, loader, ckpt_path=callback.resume())
        return trainer, model.seen, [value.tolist() for value in model.state_dict().values()]

    (tmp_path / "told").touch()
    _, batches, expected = run("whole")
    assert _steps(tmp_path / "whole") == [5, 10]
    (tmp_path / "told").unlink()
    stopped, first, _ = run("stopped")
    assert stopped.global_step == STOP
    assert _steps(tmp_path / "stopped") == [5, STOP]
    assert [path.name for path in (tmp_path / "stopped").iterdir() if path.name.startswith(".")] == []
    notice.unlink()
    resumed, second, weights = run("stopped")
    assert first + second == batches
    assert (resumed.global_step, weights) == (STEPS, expected)


@pytest.fixture
def sigterm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """Sends it to this process, in which it may be heard."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    monkeypatch.setattr(stop, "_watching", False)
    monkeypatch.setattr(stop, "_stopping", False)
    yield lambda: os.kill(os.getpid(), signal.SIGTERM)
    signal.signal(signal.SIGTERM, before)


class Course:
    """Trainings with Lightning that validate; ``tell`` is called in one hook at one step and batch."""

    def __init__(self, tell: Callable[[], None], where: tuple[str, int, int]) -> None:
        self.tell, self.where = tell, where
        self.told = False
        self.seen: list[Any] = []

    def run(self, folder: Path, **arguments: Any) -> list[Any]:
        pl = pytest.importorskip("pytorch_lightning")
        from modelworks.train.lightning import CheckpointCallback  # noqa: PLC0415

        course = self

        class Model(pl.LightningModule):  # type: ignore[misc,name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.network = _network()

            def loss(self, hook: str, batch: Any, index: int) -> Any:
                if not course.told and (hook, self.trainer.global_step, index) == course.where:
                    course.told = True
                    course.tell()
                return torch.nn.functional.cross_entropy(self.network(batch["x"]), batch["labels"])

            def training_step(self, batch: Any, index: int) -> Any:
                course.seen.append(batch["x"][:, -1].tolist())
                return self.loss("train", batch, index)

            def validation_step(self, batch: Any, index: int) -> None:
                self.log("validated", self.loss("validate", batch, index))

            def configure_optimizers(self) -> Any:
                return torch.optim.AdamW(self.parameters(), lr=0.01)

        model = Model()
        loader = train.Loader(torch.utils.data.DataLoader(Rows(), batch_size=2, shuffle=True), seed=2)
        callback = CheckpointCallback(folder, every=500)
        trainer = pl.Trainer(
            max_steps=STEPS, accelerator="cpu", callbacks=[callback], logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, **arguments,
        )  # fmt: skip
        rows = torch.utils.data.DataLoader(Rows(), batch_size=4)
        trainer.fit(model, loader, rows, ckpt_path=callback.resume())
        assert trainer.global_step == STEPS
        return [value.tolist() for value in model.state_dict().values()]


@pytest.mark.parametrize(
    ("where", "accumulated", "kept"),
    [
        (("validate", 8, 1), 1, 8),  # the end of the first epoch, in the second of four batches
        (("train", 3, 3), 1, 4),  # validation does not begin
        (("train", 2, 4), 2, 3),  # the first of the two batches of a step
    ],
    ids=["validating", "training", "accumulating"],
)
def test_a_notice_costs_lightning_no_step(
    tmp_path: Path,
    notice: Path,
    sigterm: Callable[[], None],
    where: tuple[str, int, int],
    accumulated: int,
    kept: int,
) -> None:
    whole, disturbed = Course(sigterm, ("never", 0, 0)), Course(sigterm, where)
    expected = whole.run(tmp_path / "whole", accumulate_grad_batches=accumulated)
    with pytest.raises(SystemExit) as left:
        disturbed.run(tmp_path / "disturbed", accumulate_grad_batches=accumulated)
    assert (disturbed.told, left.value.code) == (True, None)
    assert _steps(tmp_path / "disturbed") == [kept]
    assert len(disturbed.seen) == kept * accumulated
    stop._stopping = False  # another process
    assert disturbed.run(tmp_path / "disturbed", accumulate_grad_batches=accumulated) == expected
    assert disturbed.seen == whole.seen


def test_what_a_framework_keeps_in_folders_is_refused(tmp_path: Path) -> None:
    (tmp_path / "trainer" / "global_step5").mkdir(parents=True)
    with pytest.raises(
        train.checkpoint.CheckpointError, match=r"the checkpoint of step 5 cannot be kept: .*is a folder"
    ):
        Checkpointer(tmp_path / "c").adopt(5, tmp_path / "trainer", "transformers")
