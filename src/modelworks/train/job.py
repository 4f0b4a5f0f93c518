"""What a training script asks of its job and tells it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelworks.train import paths, progress

_CONFIG = "/ml/input/config/hyperparameters.json"


def hyperparameters() -> dict[str, Any]:
    """The job's hyperparameters, numbers and booleans as such; empty outside a job."""
    path = Path(os.environ.get("MW_HYPERPARAMETERS_FILE") or _CONFIG)
    if not path.exists():
        return {}
    return {name: _value(text) for name, text in json.loads(path.read_text("utf-8")).items()}


def report(metrics: Mapping[str, float]) -> None:
    """Add to ``metrics.json`` in the output: what a model version made of this job shows as its metrics.

    They are reported for the step that was told last, too.
    """
    progress.note(metrics)
    path = paths.output() / "metrics.json"
    known = json.loads(path.read_text("utf-8")) if path.exists() else {}
    known |= {str(name): float(value) for name, value in metrics.items()}
    temporary = path.with_name(".metrics.json.tmp")
    temporary.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n", "utf-8")
    temporary.replace(path)


def _value(text: Any) -> Any:
    """``"3"`` → 3, ``"true"`` → True; what is not JSON stays text."""
    if not isinstance(text, str):
        return text
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        return text
    return value if isinstance(value, int | float | bool) else text
