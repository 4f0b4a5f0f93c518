"""Helpers for training scripts. They import nothing of the server, and work outside the platform too."""

from __future__ import annotations

from modelworks.train import checkpoint, paths
from modelworks.train.job import hyperparameters, report
from modelworks.train.loader import Loader
from modelworks.train.progress import data_wait, step
from modelworks.train.stop import Notice, notice, should_stop

__all__ = [
    "Loader",
    "Notice",
    "checkpoint",
    "data_wait",
    "hyperparameters",
    "notice",
    "paths",
    "report",
    "should_stop",
    "step",
]
