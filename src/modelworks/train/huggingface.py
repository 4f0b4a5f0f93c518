"""The ``Trainer`` of Hugging Face Transformers on the platform."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from modelworks.train import group, progress
from modelworks.train.checkpointer import Checkpointer
from modelworks.train.stop import should_stop


class CheckpointCallback(TrainerCallback):  # type: ignore[misc]
    """Checkpoints each ``every`` steps and at a notice, which also ends the training; progress for the platform::

        callback = CheckpointCallback()
        trainer = Trainer(..., callbacks=[callback])
        trainer.train(resume_from_checkpoint=callback.resume())

    The Trainer writes them into its ``output_dir``, with optimizer, scheduler and generators; what it wrote becomes a
    checkpoint of the job. ``folder``, ``every`` and ``keep`` are those of ``Checkpointer``.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, every: int | None = None, keep: int | None = None
    ) -> None:
        self._checkpointer = Checkpointer(folder, every=every, keep=keep)

    def resume(self) -> str | None:
        """What ``resume_from_checkpoint`` takes: the latest checkpoint that every replica has, or None."""
        saved = self._checkpointer.agreed()
        return str(saved.path) if saved else None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if group.size() > group.local_size():
            args.save_on_each_node = True  # a replica resumes from its own disk

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        step = state.global_step
        samples = args.train_batch_size * args.gradient_accumulation_steps
        progress.step(step, steps=state.max_steps, epoch=state.epoch, samples=samples)
        if step % self._checkpointer.every == 0:
            control.should_save = True
        if should_stop():
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        progress.note({name: value for name, value in (logs or {}).items() if isinstance(value, int | float)})

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        group.gather(None)  # every rank has written its generators
        if group.local_rank() == 0:
            source = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            self._checkpointer.adopt(state.global_step, source, "transformers")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._checkpointer.wait()
        progress.flush()
