"""The Trainer of Hugging Face in two processes on gloo, for tests: whole, stopped by a notice to one rank, and killed.

``python -m tests.train_huggingface FOLDER`` writes ``told.json`` there: of each run the steps of the checkpoints that
it left, and of each of its ranks the step it came to and its weights.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # by the first optimizer otherwise, in each rank: that takes seconds
import transformers

from modelworks.runtime.launch import free_port
from modelworks.train import group, layout
from modelworks.train.huggingface import CheckpointCallback

EVERY, STEPS, STOP = 5, 12, 7
RANKS = 2


class Rows:
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": torch.linspace(0, index, 4), "labels": torch.tensor(index % 2)}


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 2))

    def forward(self, x: Any, labels: Any) -> dict[str, Any]:
        logits = self.network(x)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


class At(transformers.TrainerCallback):  # type: ignore[misc]
    """After ``STOP`` steps rank 1 alone is told to end, or killed once there is a checkpoint in ``folder``."""

    def __init__(self, what: str, folder: Path) -> None:
        self.what, self.folder = what, folder

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step != STOP - 1 or group.rank() != 1:
            return
        if self.what == "kill":
            while not layout.places(self.folder):  # a thread of rank 0 writes it, and that one is killed next
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGKILL)
        told = {"at": time.time(), "deadline": time.time() + 60, "reason": "Preempted"}
        Path(os.environ["MW_NOTICE_FILE"]).write_text(json.dumps(told))


def learn(rank: int, folder: Path, env: dict[str, str], what: str) -> None:
    """One rank; it writes what came of it to ``rank-<n>.json``."""
    os.environ.update(env | {"RANK": str(rank), "LOCAL_RANK": str(rank), "MW_NOTICE_FILE": str(folder / f"n{rank}")})
    torch.set_num_threads(1)
    arguments = transformers.TrainingArguments(
        output_dir=str(folder / "trainer"), max_steps=STEPS, per_device_train_batch_size=2, seed=1, use_cpu=True,
        save_strategy="no", report_to=[], disable_tqdm=True, logging_steps=1, learning_rate=0.01,
        ddp_find_unused_parameters=False,
    )  # fmt: skip
    assert arguments.world_size == RANKS
    callback = CheckpointCallback(folder / "checkpoints", every=EVERY)
    model = Model()
    more = [At(what, folder / "checkpoints")] if what else []
    trainer = transformers.Trainer(model, arguments, train_dataset=Rows(), callbacks=[callback, *more])
    trainer.train(resume_from_checkpoint=callback.resume())
    weights = [value.tolist() for value in model.state_dict().values()]
    (folder / f"rank-{rank}.json").write_text(json.dumps([trainer.state.global_step, weights]))
    torch.distributed.barrier()
    for thread in threading.enumerate():  # a checkpoint may still be on its way to the disk
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    # Without the destructors: that of PyTorch's process group waits for a thread of gloo with the interpreter's lock
    # held, which that thread may want for the last tensor that it gathered.
    os._exit(0)


def run(folder: Path, what: str = "") -> dict[str, Any]:
    """One attempt."""
    folder.mkdir(exist_ok=True)
    for rank in range(RANKS):
        (folder / f"n{rank}").unlink(missing_ok=True)
        (folder / f"rank-{rank}.json").unlink(missing_ok=True)
    env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    # Forked: importing all of this takes seconds.
    fork = multiprocessing.get_context("fork")
    ranks = [fork.Process(target=learn, args=(rank, folder, env, what)) for rank in range(RANKS)]
    for process in ranks:
        process.start()
    for process in reversed(ranks):
        process.join()
        if process.exitcode:  # the platform ends the others
            for other in ranks:
                other.kill()
    steps = [place.step for place in layout.places(folder / "checkpoints")]
    found = [folder / f"rank-{rank}.json" for rank in range(RANKS)]
    return {"steps": steps, "ranks": [json.loads(path.read_text()) for path in found if path.exists()]}


def main() -> None:
    root = Path(sys.argv[1])
    told = {"whole": run(root / "whole"), "stopped": run(root / "stopped", "tell"), "resumed": run(root / "stopped")}
    told |= {"killed": run(root / "killed", "kill"), "repeated": run(root / "killed")}
    (root / "told.json").write_text(json.dumps(told))


if __name__ == "__main__":
    main()
