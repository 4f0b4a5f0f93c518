"""Moments as people write them: so long ago, or a date."""

from __future__ import annotations

import time
from datetime import datetime

from modelworks.kernel.errors import Invalid
from modelworks.kernel.quantities import parse_duration


def moment_of(text: str) -> float:
    """``10m`` (so long ago) or ``2026-01-31T12:00`` (of this machine's zone, where none is given) → Unix seconds."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        pass
    try:
        return time.time() - parse_duration(text)
    except ValueError:
        raise Invalid(f"not a time: {text!r}", remedy="write it as 10m (so long ago) or 2026-01-31T12:00") from None
