"""What a training script asks of its job and tells it."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from modelworks.train import paths

_CONFIG = "/ml/input/config/hyperparameters.json"
_stopping = threading.Event()
_watching = False


def hyperparameters() -> dict[str, Any]:
    """The job's hyperparameters, numbers and booleans as such; empty outside a job."""
    path = Path(os.environ.get("MW_HYPERPARAMETERS_FILE") or _CONFIG)
    if not path.exists():
        return {}
    return {name: _value(text) for name, text in json.loads(path.read_text("utf-8")).items()}


def should_stop() -> bool:
    """The platform wants the job to end: save what is needed and leave within the grace period.

    The first call begins to watch for SIGTERM, and must be made in the main thread; a handler that was there before is
    called too.
    """
    global _watching
    if not _watching:
        before = signal.getsignal(signal.SIGTERM)

        def stop(number: int, frame: FrameType | None) -> None:
            _stopping.set()
            if callable(before):
                before(number, frame)

        signal.signal(signal.SIGTERM, stop)
        _watching = True
    return _stopping.is_set()


def report(metrics: Mapping[str, float]) -> None:
    """Add to ``metrics.json`` in the output: what a model version made of this job shows as its metrics."""
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
