"""Where a job's data are: from the platform's variables, else its paths, else below the working directory."""

from __future__ import annotations

import os
import re
from pathlib import Path


def input(channel: str) -> Path:
    """The folder of an input channel. Raises FileNotFoundError naming the channels there are."""
    variable = f"MW_INPUT_{re.sub(r'[^A-Za-z0-9]', '_', channel).upper()}"
    places = [os.environ.get(variable), f"/mnt/{channel}", f"/ml/input/data/{channel}"]
    for place in places:
        if place and Path(place).exists():
            return Path(place)
    known = sorted(name.removeprefix("MW_INPUT_").lower() for name in os.environ if name.startswith("MW_INPUT_"))
    there = f"the job has {', '.join(known)}" if known else "the job has none"
    raise FileNotFoundError(f"there is no input channel {channel!r}; {there}")


def output() -> Path:
    """The folder whose files become the job's output; made when it is not there."""
    return _folder("MW_OUTPUT_DIR", "/mnt/output", "output")


def checkpoints() -> Path:
    """The folder for checkpoints; made when it is not there."""
    return _folder("MW_CHECKPOINT_DIR", "/ml/output/checkpoints", "checkpoints")


def _folder(variable: str, mounted: str, local: str) -> Path:
    place = Path(os.environ.get(variable) or (mounted if os.path.isdir(mounted) else local))
    place.mkdir(parents=True, exist_ok=True)
    return place
