"""Checkpoints of the job: the functions of one Checkpointer that writes to ``$MW_CHECKPOINT_DIR``."""

from __future__ import annotations

from modelworks.train.checkpointer import Checkpointer, CheckpointError, Restored, Saved

__all__ = ["CheckpointError", "Checkpointer", "Restored", "Saved", "latest", "maybe", "restore", "save", "wait"]

_job = Checkpointer()
save, maybe, wait, latest, restore = _job.save, _job.maybe, _job.wait, _job.latest, _job.restore
