"""The ``Trainer`` of Lightning on the platform: of the package ``lightning``, or of ``pytorch_lightning``."""

from __future__ import annotations

import os
import shutil
from typing import Any

from modelworks.train import group, progress, rng
from modelworks.train.checkpointer import Checkpointer
from modelworks.train.stop import should_stop

try:
    from lightning.pytorch import Callback  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    from pytorch_lightning import Callback

_FILE = "lightning.ckpt"


class CheckpointCallback(Callback):  # type: ignore[misc]
    """Checkpoints each ``every`` steps and at a notice, which also ends the training; progress for the platform::

        callback = CheckpointCallback()
        trainer = Trainer(..., callbacks=[callback])
        trainer.fit(model, train.Loader(...), ckpt_path=callback.resume())

    With a ``train.Loader`` it goes on with the next batch. The generators are those of the process that wrote the
    file; other ranks begin theirs anew. ``folder``, ``every`` and ``keep`` are those of ``Checkpointer``.
    """

    def __init__(
        self, folder: str | os.PathLike[str] | None = None, *, every: int | None = None, keep: int | None = None
    ) -> None:
        self._checkpointer = Checkpointer(folder, every=every, keep=keep)
        self._whole: dict[str, Any] | None = None
        self._generators: dict[str, Any] | None = None
        self._step = -1

    def resume(self) -> str | None:
        """What ``ckpt_path`` takes: the file of the latest checkpoint that every replica has, or None."""
        saved = self._checkpointer.agreed()
        return str(saved.path / _FILE) if saved else None

    def state_dict(self) -> dict[str, Any]:
        return {"rank": group.rank(), "rng": rng.capture()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._generators = state_dict["rng"] if state_dict["rank"] == group.rank() else None

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if self._generators is not None:
            generators, self._generators = self._generators, None
            rng.restore(generators)  # now, since whatever came before may have drawn from them

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        stop = should_stop()
        if step != self._step:  # with accumulated gradients a step has several batches
            self._step = step
            steps = trainer.max_steps if trainer.max_steps and trainer.max_steps > 0 else None
            metrics = {name: value for name, value in trainer.callback_metrics.items() if _is_number(value)}
            progress.step(step, steps=steps, epoch=float(trainer.current_epoch), **{**metrics, **_loss(outputs)})
            if stop or step % self._checkpointer.every == 0:
                self._save(trainer, step)
        if stop:
            trainer.should_stop = True
            trainer.fit_loop.min_epochs = trainer.fit_loop.epoch_loop.min_steps = None  # the notice does not wait

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self._whole = checkpoint

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self._checkpointer.wait()
        progress.flush()

    def _save(self, trainer: Any, step: int) -> None:
        staging = self._checkpointer.stage(step)
        try:
            trainer.save_checkpoint(staging / _FILE)  # every rank calls it, and the first one writes
            if group.local_rank() == 0:
                if not (staging / _FILE).exists():
                    import torch  # noqa: PLC0415

                    torch.save(self._whole, staging / _FILE)
                self._checkpointer.adopt(step, staging, "lightning")
        finally:
            self._whole = None
            shutil.rmtree(staging, ignore_errors=True)


def _loss(outputs: Any) -> dict[str, Any]:
    loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return {"loss": loss} if _is_number(loss) else {}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) or getattr(value, "numel", lambda: 0)() == 1
