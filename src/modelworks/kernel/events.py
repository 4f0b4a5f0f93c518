"""Events: the append-only account of what happened to a resource, in the order in which it was committed."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from modelworks.kernel.resource import Ref


class Level(StrEnum):
    NORMAL = "normal"
    WARNING = "warning"


@dataclass(frozen=True)
class Event:
    """``reason`` is a CamelCase word for machines, ``message`` a sentence for people, ``data`` its numbers."""

    seq: int
    at: datetime
    ref: Ref
    uid: str
    reason: str
    message: str
    level: Level = Level.NORMAL
    data: dict[str, Any] = field(default_factory=dict)
