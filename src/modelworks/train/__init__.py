"""Helpers for training scripts. They import nothing of the server, and work outside the platform too."""

from __future__ import annotations

from modelworks.train import paths
from modelworks.train.job import hyperparameters, report, should_stop

__all__ = ["hyperparameters", "paths", "report", "should_stop"]
