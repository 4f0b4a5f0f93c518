"""What a workload wrote about itself, made what it should be. Nothing of it is believed. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from modelworks.kernel.run import Progress

MOST_NAMES = 64
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,128}")
_LARGEST_STEP = 1 << 53  # what JSON readers hold exactly


def progress(word: bytes, now: float) -> Progress | None:
    """What ``$MW_PROGRESS_FILE`` holds; None when it is no object with a step. Fields that are not numbers are left
    out, and so are names beyond the first 64."""
    document = _object(word)
    step = _count(document.get("step")) if document else None
    if document is None or step is None:
        return None
    share, seconds = number(document.get("data_share")), number(document.get("step_seconds"))
    return Progress(
        at=number(document.get("at")) or now,
        step=step,
        steps=_count(document.get("steps")),
        epoch=number(document.get("epoch")),
        step_seconds=seconds if seconds is not None and seconds >= 0 else None,
        data_share=min(1.0, max(0.0, share)) if share is not None else None,
        rates=numbers(document.get("rates")),
        metrics=numbers(document.get("metrics")),
    )


def report(line: bytes, now: float) -> dict[str, float] | None:
    """A line of ``$MW_METRICS_FILE``: ``{at, step, name: value …}``; None when nothing of it is a number of a step."""
    document = _object(line)
    if document is None:
        return None
    step = _count(document.get("step"))
    values = numbers({name: value for name, value in document.items() if name not in ("at", "step", "version")})
    if step is None or not values:
        return None
    return {"at": number(document.get("at")) or now, "step": step, **values}


def numbers(document: Any) -> dict[str, float]:
    """The finite numbers of an object, by name."""
    if not isinstance(document, Mapping):
        return {}
    found: dict[str, float] = {}
    for name, value in document.items():
        known = number(value)
        if known is not None and _NAME.fullmatch(name):
            found[name] = known
            if len(found) == MOST_NAMES:
                break
    return found


def number(value: Any) -> float | None:
    """A finite number; ``True`` is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        known = float(value)
    except OverflowError:
        return None
    return known if math.isfinite(known) else None


def _count(value: Any) -> int | None:
    known = number(value)
    return int(known) if known is not None and 0 <= known <= _LARGEST_STEP else None


def _object(text: bytes) -> dict[str, Any] | None:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
