"""The ``Trainer`` of Lightning on the platform: of the package ``lightning``, or of ``pytorch_lightning``."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
from typing import Any

from modelworks.train import group, progress, rng
from modelworks.train.checkpointer import Checkpointer
from modelworks.train.stop import should_stop, watch

try:
    from lightning.pytorch import Callback  # type: ignore[import-not-found,unused-ignore]
    from lightning.pytorch.utilities.exceptions import SIGTERMException  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    from pytorch_lightning import Callback
    from pytorch_lightning.utilities.exceptions import SIGTERMException

_FILE = "lightning.ckpt"


class CheckpointCallback(Callback):  # type: ignore[misc]
    """Checkpoints each ``every`` steps and at a notice, which also ends the training; progress for the platform::

        callback = CheckpointCallback()
        trainer = Trainer(..., callbacks=[callback])
        trainer.fit(model, train.Loader(...), ckpt_path=callback.resume())

    Where there is validation, a notice leaves it at once, or does not begin it: ``fit`` ends the process then, with
    status 0. Several ranks whose numbers of validation batches differ, or are not known, end one that has begun.

    With a ``train.Loader`` it goes on with the next batch. The generators are those of the process that wrote the
    file; other ranks begin theirs anew. ``folder``, ``every`` and ``keep`` are those of ``Checkpointer``.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, every: int | None = None, keep: int | None = None
    ) -> None:
        self._checkpointer = Checkpointer(folder, every=every, keep=keep)
        self._whole: dict[str, Any] | None = None
        self._generators: dict[str, Any] | None = None
        self._step = self._saved = 0
        self._late = 0  # batches since the notice
        self._over = False
        self._sigterm: Any = None
        self._asks = False  # whether all ranks validate the same number of batches, and so can ask each other at each

    def resume(self) -> str | None:
        """What ``ckpt_path`` takes: the file of the latest checkpoint that every replica has, or None."""
        saved = self._checkpointer.agreed()
        return str(saved.path / _FILE) if saved else None

    def state_dict(self) -> dict[str, Any]:
        return {"rank": group.rank(), "rng": rng.capture()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._generators = state_dict["rng"] if state_dict["rank"] == group.rank() else None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        watch()
        self._sigterm = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self._late, self._over = 0, False
        self._step = self._saved = trainer.global_step
        # Lightning's own handler, put in after setup, would end a rank wherever it is in validation, with nothing
        # saved, and speaks to the other ranks in the midst of whatever they exchange. It includes the one from before.
        with contextlib.suppress(ValueError):  # not in the main thread: Lightning has put in none either
            if self._sigterm is not None:
                signal.signal(signal.SIGTERM, self._sigterm)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._generators is not None:
            generators, self._generators = self._generators, None
            rng.restore(generators)  # now, since whatever came before may have drawn from them

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        stop = should_stop()
        moved = step != self._step  # with accumulated gradients a step has several batches
        if moved:
            self._step = step
            steps = trainer.max_steps if trainer.max_steps and trainer.max_steps > 0 else None
            metrics = {name: value for name, value in trainer.callback_metrics.items() if _is_number(value)}
            progress.step(step, steps=steps, epoch=float(trainer.current_epoch), **{**metrics, **_loss(outputs)})
            if step % self._checkpointer.every == 0:
                self._save(trainer)
        if stop:
            self._late += 1
            # The step is ended first, since its gradients are not kept; some that step by hand do not tell Lightning.
            if moved or self._late > trainer.accumulate_grad_batches:
                self._save(trainer)
                self._over = trainer.should_stop = True
                trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None  # the notice does not wait

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if self._over and trainer.state.fn == "fit":  # Lightning validates before it stops early
            self._leave(trainer)
        batches = group.gather(list(trainer.num_val_batches))
        known = group.size() == 1 or all(number != math.inf for number in batches[0])
        self._asks = known and all(numbers == batches[0] for numbers in batches)

    def on_validation_batch_end(self, trainer: Any, *_: Any) -> None:
        if self._asks and trainer.state.fn == "fit" and not trainer.sanity_checking and should_stop():
            self._leave(trainer)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._whole = checkpoint

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._checkpointer.wait()
        progress.flush()

    def _leave(self, trainer: Any) -> None:
        self._save(trainer)
        self._checkpointer.wait()  # on_train_end does not come
        raise SIGTERMException

    def _save(self, trainer: Any) -> None:
        step = self._step
        if step == self._saved:
            return
        staging = self._checkpointer.stage(step)
        try:
            trainer.save_checkpoint(staging / _FILE)  # every rank calls it, and the first one writes
            if group.local_rank() == 0:
                if not (staging / _FILE).exists():
                    import torch  # noqa: PLC0415

                    torch.save(self._whole, staging / _FILE)
                self._checkpointer.adopt(step, staging, "lightning")
            self._saved = step
        finally:
            self._whole = None
            shutil.rmtree(staging, ignore_errors=True)


def _loss(outputs: Any) -> dict[str, Any]:
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return {"loss": loss} if _is_number(loss) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or getattr(value, "numel", lambda: 0)() == 1
