"""The user's settings: ``MW_HOME/config.yaml`` and the environment, over the shipped catalogues in ``data/``."""

from __future__ import annotations
