"""Checkpoints on a real disk: whole or not there, whatever happens while they are written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelworks.train import layout
from modelworks.train.checkpointer import Checkpointer, CheckpointError


def _steps(folder: Path) -> list[int]:
    return [place.step for place in layout.places(folder)]


def _latest(checkpointer: Checkpointer) -> int | None:
    saved = checkpointer.latest()
    return saved.step if saved else None


def test_the_latest_is_the_highest_number_and_the_last_three_stay(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path, every=500)
    saved = [step for step in range(0, 3001, 250) if checkpointer.maybe(step, at=step)]
    checkpointer.wait()
    assert saved == [500, 1000, 1500, 2000, 2500, 3000]
    assert _steps(tmp_path) == [2000, 2500, 3000]
    again = Checkpointer(tmp_path)
    assert _latest(again) == 3000
    found = again.restore()
    assert found
    assert (found.step, found.state["at"], found.exact) == (3000, 3000, True)
    earlier = again.restore(step=2500)
    assert earlier
    assert earlier.state["at"] == 2500
    assert again.restore(step=7) is None


def test_the_jobs_settings_are_taken_from_its_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("DIR", str(tmp_path / "c")), ("EVERY", "2"), ("KEEP", "1")):
        monkeypatch.setenv(f"MW_CHECKPOINT_{name}", value)
    checkpointer = Checkpointer()
    assert [step for step in range(7) if checkpointer.maybe(step)] == [2, 4, 6]
    checkpointer.wait()
    assert _steps(tmp_path / "c") == [6]
    monkeypatch.setenv("MW_CHECKPOINT_KEEP", "some")
    with pytest.raises(CheckpointError, match="MW_CHECKPOINT_KEEP is 'some': a number from 1 on is meant"):
        print(checkpointer.keep)  # noqa: T201


def test_a_torch_loop_goes_on_where_it_was(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")

    def make() -> tuple[Any, Any, Any]:
        model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5), torch.nn.Linear(4, 4, bias=False))
        model[2].weight = model[0].weight  # tied
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
        return model, optimizer, torch.optim.lr_scheduler.MultiStepLR(optimizer, [2, 5])

    def work(model: Any, optimizer: Any, scheduler: Any, steps: int) -> list[float]:
        losses = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = model(torch.randn(3, 4) + float(np.random.rand())).square().mean()
            loss.backward()
            optimizer.step()
            scheduler.step()
            losses.append(loss.item())
        return losses

    model, optimizer, scheduler = make()
    work(model, optimizer, scheduler, 4)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0)
    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(4, model=model, optimizer=optimizer, scheduler=scheduler, scaler=scaler, best=(0.5, "x"))
    expected = work(model, optimizer, scheduler, 4)  # changes everything in place while the thread writes
    checkpointer.wait()

    model, optimizer, scheduler = make()
    scaler = torch.amp.GradScaler("cpu")
    found = Checkpointer(tmp_path).restore(model=model, optimizer=optimizer, scheduler=scheduler, scaler=scaler)
    assert found
    assert (found.step, found.state["best"], scaler.get_scale()) == (4, (0.5, "x"), 8.0)
    assert work(model, optimizer, scheduler, 4) == expected
    # The file of the model is one that people can use as it is.
    weights = torch.load(tmp_path / "step-4" / "model.pt", weights_only=True)
    make()[0].load_state_dict(weights)
    assert weights["0.weight"].data_ptr() == weights["2.weight"].data_ptr()


def test_arrays_and_bytes_need_no_torch(tmp_path: Path) -> None:
    program = """
import sys; sys.modules["torch"] = None
import numpy
from modelworks import train
train.checkpoint.save(3, weights=numpy.arange(4.0), blob=b"model", wait=True)
found = train.checkpoint.restore()
assert found.state["weights"].tolist() == [0, 1, 2, 3] and found.state["blob"] == b"model"
assert train.should_stop() is False and train.notice() is None
"""
    env = os.environ | {"MW_CHECKPOINT_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", program], env=env, check=True)
    assert sorted(path.name for path in (tmp_path / "step-3").iterdir()) == [
        "blobs.bin",
        "contents.json",
        "manifest.json",
    ]


def test_nothing_of_the_server_and_no_torch_is_imported() -> None:
    program = """
import sys
import modelworks.train
loaded = {name.split(".")[0] for name in sys.modules} & {"torch", "numpy", "transformers", "lightning", "pydantic"}
assert not loaded, loaded
assert not [n for n in sys.modules if n.startswith("modelworks.") and not n.startswith("modelworks.train")]
"""
    env = os.environ | {"PYTHONPATH": str(Path(layout.__file__).parents[2])}
    subprocess.run([sys.executable, "-c", program], env=env, check=True)


# -- crashes --------------------------------------------------------------------------------------------------------


def _crashing(folder: Path, call: int, after: bool) -> int:
    """Save step 20 in a process that ends at its ``call``-th fsync or rename; its exit code, 0 without a crash."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    count = 0

    def ending(real: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == call and not after:
                os._exit(9)
            result = real(*args, **kwargs)
            if count == call:
                os._exit(9)
            return result

        return called

    os.fsync, os.rename = ending(os.fsync), ending(os.rename)
    code = 1
    try:
        checkpointer = Checkpointer(folder, keep=1)
        checkpointer.save(20, value=20, array=np.arange(20), wait=True)
        code = 0
    finally:
        os._exit(code)


@pytest.mark.parametrize("after", [False, True])
def test_a_crash_at_any_boundary_leaves_a_whole_checkpoint(tmp_path: Path, after: bool) -> None:
    for call in range(1, 100):
        folder = tmp_path / str(call)
        Checkpointer(folder).save(10, value=10, array=np.arange(10), wait=True)
        code = _crashing(folder, call, after)
        survivor = Checkpointer(folder)
        found = survivor.restore()
        assert found
        assert (found.step, len(found.state["array"])) in ((10, 10), (20, 20))
        assert found.state["value"] == found.step
        survivor.save(30, value=30, wait=True)
        # What the crash left half written is gone, and what it left whole is not.
        assert [name for name in os.listdir(folder) if name.startswith(".")] == []
        assert {found.step, 30} <= set(_steps(folder))
        if code == 0:
            assert call > 5
            return
        assert code == 9
    raise AssertionError("it never ended")


def test_every_file_is_on_the_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    real_fsync, real_rename = os.fsync, os.rename

    def fsync(descriptor: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        real_fsync(descriptor)

    def rename(source: Any, target: Any) -> None:
        events.append(f"→ {Path(target).name}")
        real_rename(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "rename", rename)
    Checkpointer(tmp_path).save(5, value=b"1", wait=True)
    *files, folder, renamed, parent = events
    assert files == ["blobs.bin", "contents.json", "manifest.json"]
    assert (folder.startswith(".step-5.0."), renamed, parent) == (True, "→ step-5", tmp_path.name)


DAMAGE = st.sampled_from(["none", "no manifest", "short", "flipped", "missing", "no JSON", "empty", "other version"])


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.integers(0, 2000), DAMAGE, max_size=5))
def test_the_latest_is_the_highest_that_is_whole(damages: dict[int, str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for step in damages:
            Checkpointer(folder, keep=10).save(step, value=str(step), wait=True)
        for step, damage in damages.items():
            _damage(folder / f"step-{step}", damage)
        whole = [step for step, damage in damages.items() if damage == "none"]
        assert _latest(Checkpointer(folder)) == max(whole, default=None)
        found = Checkpointer(folder).restore()
        assert (found.state["value"] if found else None) == (str(max(whole)) if whole else None)


def _damage(directory: Path, how: str) -> None:
    contents, manifest = directory / layout.CONTENTS, directory / layout.MANIFEST
    data = contents.read_bytes()
    if how == "no manifest":
        manifest.unlink()
    elif how == "short":
        contents.write_bytes(data[:-1])
    elif how == "flipped":
        contents.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    elif how == "missing":
        contents.unlink()
    elif how == "no JSON":
        manifest.write_bytes(manifest.read_bytes()[:40])
    elif how == "empty":
        manifest.write_bytes(b"")
    elif how == "other version":
        manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 2}))


# -- mistakes -------------------------------------------------------------------------------------------------------


def test_what_was_given_up_goes_and_what_is_not_ours_stays(tmp_path: Path) -> None:
    first = Checkpointer(tmp_path)
    for step in (10, 20, 30):
        first.save(step, wait=True)
    (tmp_path / "step-30" / layout.CONTENTS).unlink()  # torn
    (tmp_path / "step-7").mkdir()
    (tmp_path / "step-7" / "mine.txt").write_text("x")
    (tmp_path / "best.pt").write_text("x")
    second = Checkpointer(tmp_path, keep=2)
    found = second.restore()
    assert found
    assert found.step == 20
    for step in (25, 35):
        second.save(step, wait=True)
    assert _steps(tmp_path) == [7, 25, 35]
    assert (tmp_path / "best.pt").exists()


def test_a_checkpoint_that_cannot_be_written_is_told_by_the_next_call(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    checkpointer = Checkpointer(tmp_path / "file")
    checkpointer.save(1)
    with pytest.raises(CheckpointError, match=r"the last checkpoint could not be written to .*/file: .*File exists"):
        checkpointer.wait()
    checkpointer.wait()  # told once


def test_what_is_not_in_the_checkpoint_is_named(tmp_path: Path) -> None:
    class Counter:
        def state_dict(self) -> dict[str, int]:
            return {"n": 1}

        def load_state_dict(self, state: dict[str, int]) -> None:
            raise AssertionError(state)

    checkpointer = Checkpointer(tmp_path)
    checkpointer.save(1, value=1, wait=True)
    with pytest.raises(
        CheckpointError, match=r"step-1 holds no 'counter' \(it holds rng, value\): it was saved without"
    ):
        checkpointer.restore(counter=Counter())
    with pytest.raises(CheckpointError, match="a state cannot be called 'rng'"):
        checkpointer.save(2, rng=1)


def test_processes_of_one_replica_that_do_not_know_each_other_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(CheckpointError, match=r"call torch\.distributed\.init_process_group\(\) before"):
        Checkpointer(tmp_path).save(1)
