"""How far a run is, as its agent tells it."""

from __future__ import annotations

from dataclasses import dataclass

from modelworks.kernel.run import RunPhase, RunReason


@dataclass(frozen=True)
class Progress:
    """What changes while a run lives; what an observation is made of besides its files."""

    phase: RunPhase = RunPhase.PREPARING
    reason: RunReason = RunReason.NONE
    message: str = ""
    ready: bool = False
