"""The data of a sweep's plots. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelworks.db.trials import StoredTrial
from modelworks.products.sweeps.spec import Objective


def history(objective: Objective, trials: Sequence[StoredTrial]) -> list[dict[str, Any]]:
    """The complete trials in the order in which they ended, each with the best value until then."""
    whole = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    best: float | None = None
    points = []
    for trial in sorted(whole, key=lambda trial: (trial.ended_at or trial.created_at, trial.number)):
        value = float(trial.value or 0.0)
        better = min if objective.goal == "minimize" else max
        best = value if best is None else better(best, value)
        points.append({"trial": trial.number, "value": value, "best": best})
    return points


def curves(trials: Sequence[StoredTrial]) -> list[dict[str, Any]]:
    """Each trial's values by step."""
    found = []
    for trial in trials:
        points = sorted((int(step), float(value)) for step, value in (trial.reports or {}).items())
        if points:
            steps, values = zip(*points, strict=True)
            found.append({"trial": trial.number, "state": trial.state, "steps": list(steps), "values": list(values)})
    return found


def coordinates(trials: Sequence[StoredTrial]) -> list[dict[str, Any]]:
    """Of each complete trial its parameters and its value."""
    return [
        {"trial": trial.number, "value": trial.value, "parameters": trial.parameters}
        for trial in trials
        if trial.state == "complete" and trial.value is not None
    ]
