"""How far a job is, how fast, what it waits for, and what is left of it in time and money. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from modelworks.kernel.run import Progress, RunObservation

STEPS_SEEN = 50
"""From so many steps of an attempt on, what is left of it is told."""
SHARE_STEPS = 20
"""From so many steps of an attempt on, its share of waiting for data is believed."""
SHARE_ON, SHARE_OFF = 0.30, 0.20
"""A job is called input-bound at the first share of its steps that waits for data, and no more below the second."""
INPUT_BOUND = "input-bound"


def progress(
    before: Mapping[str, Any] | None,
    attempt: int,
    runs: Mapping[int, RunObservation],
    price_per_hour: float,
) -> dict[str, Any] | None:
    """``status.progress`` by what the replicas of the attempt told; as it was while they told nothing.

    Steps are those of the lowest rank that tells of any; rates are those of all replicas together, the share of waiting
    for data that of the replica that waits most. ``remaining`` has seconds and money up to the last step, once 50 steps
    of the attempt were seen.
    """
    told = {rank: run.progress for rank, run in sorted(runs.items()) if run.progress is not None}
    if not told:
        if before is None or before.get("attempt") == attempt:
            return dict(before) if before else None
        return {name: value for name, value in before.items() if name not in ("remaining", "first")}
    known = next(iter(told.values()))
    first = _first(before, attempt, known)
    document: dict[str, Any] = {
        "attempt": attempt,
        "step": known.step,
        "steps": known.steps,
        "epoch": known.epoch,
        "step_seconds": _rounded(known.step_seconds),
        "data_share": _rounded(
            max((one.data_share for one in told.values() if one.data_share is not None), default=None)
        ),
        "rates": {name: _rounded(value) for name, value in sorted(_rates(told.values()).items())} or None,
        "metrics": {name: _rounded(value, 6) for name, value in sorted(known.metrics.items())} or None,
        "checkpoint": max((one.checkpoint for one in told.values() if one.checkpoint is not None), default=None),
        "at": datetime.fromtimestamp(known.at, UTC).isoformat(timespec="milliseconds"),
        "first": first,
    }
    left = remaining(known, int(first["step"]), float(first["at"]))
    if left is not None and any(not run.phase.ended for run in runs.values()):
        document["remaining"] = {"seconds": round(left), "amount": _rounded(left / 3600 * price_per_hour, 6)}
    return {name: value for name, value in document.items() if value is not None}


def remaining(known: Progress, first_step: int, first_at: float) -> float | None:
    """Seconds to the last step at the pace since ``first_step``, evaluations and all; None when it is not known."""
    done, took = known.step - first_step, known.at - first_at
    if known.steps is None or done < STEPS_SEEN or took <= 0:
        return None
    return max(0, known.steps - known.step) * took / done


def warnings(before: Iterable[str], document: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What the user should change, for as long as it is so."""
    if document is None or document.get("data_share") is None:
        return ()
    share, first = float(document["data_share"]), document.get("first")
    if first is None or document["step"] - first["step"] < SHARE_STEPS:
        return ()
    was = any(text.startswith(INPUT_BOUND) for text in before)
    if share < (SHARE_OFF if was else SHARE_ON):
        return ()
    return (
        f"{INPUT_BOUND}: {100 * share:.0f} % of the step waits for the loader; "
        "more loader workers, larger files, or a cache would help",
    )


def _first(before: Mapping[str, Any] | None, attempt: int, known: Progress) -> dict[str, float]:
    """The first step of the attempt that was seen; another one when its steps began anew."""
    first = before.get("first") if before and before.get("attempt") == attempt else None
    if first and first["step"] <= known.step:
        return {"step": first["step"], "at": first["at"]}
    return {"step": known.step, "at": known.at}


def _rates(told: Iterable[Progress]) -> dict[str, float]:
    found: dict[str, float] = {}
    for one in told:
        for name, value in one.rates.items():
            found[name] = found.get(name, 0.0) + value
    return found


def _rounded(value: float | None, digits: int = 4) -> float | None:
    """To so many digits that count: a status need not change with the last bit."""
    if value is None or value == 0 or not math.isfinite(value):
        return value
    return float(f"{value:.{digits}g}")
