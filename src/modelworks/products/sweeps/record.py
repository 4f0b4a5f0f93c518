"""The status of a sweep: what a decision remembers of the passes before it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self


class SweepPhase(StrEnum):
    """``RUNNING`` → ``SUCCEEDED``, ``FAILED``, or by ``STOPPING`` to ``STOPPED``; a changed spec begins again."""

    RUNNING = "Running"
    STOPPING = "Stopping"  # no more trials, and those that go on are being ended
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    STOPPED = "Stopped"
    DELETING = "Deleting"

    @property
    def terminal(self) -> bool:
        return self in (SweepPhase.SUCCEEDED, SweepPhase.FAILED, SweepPhase.STOPPED)


class Ending(StrEnum):
    """Why a sweep makes no more trials than it has."""

    STOPPED = "Stopped"
    TIME_LIMIT = "TimeLimit"
    BUDGET = "Budget"
    FAILURES = "Failures"


@dataclass(frozen=True)
class Record:
    """A sweep's status between two passes; ``status`` and ``of`` are inverse. Times are Unix seconds.

    ``made`` is how many of the trials, by number, had their job made: one of them without a job had it deleted.
    ``opened_at`` is when it began, or began again after a change; wishes to stop up to ``stops_obeyed`` were before.
    ``spent`` is money, of a sweep with a budget.
    """

    phase: SweepPhase = SweepPhase.RUNNING
    message: str = ""
    reason: str = ""
    made: int = 0
    ending: Ending | None = None
    counts: Mapping[str, int] | None = None
    best: Mapping[str, Any] | None = None
    started_at: float | None = None
    opened_at: float | None = None
    stops_obeyed: int = 0
    finished_at: float | None = None
    spent: float | None = None

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> Self:
        if not status.get("phase"):
            return cls()
        return cls(
            phase=SweepPhase(status["phase"]),
            message=status.get("message", ""),
            reason=status.get("reason", ""),
            made=status.get("made", 0),
            ending=Ending(status["ending"]) if status.get("ending") else None,
            counts=status.get("trials"),
            best=status.get("best"),
            started_at=_seconds(status.get("started_at")),
            opened_at=_seconds(status.get("opened_at")),
            stops_obeyed=status.get("stops_obeyed", 0),
            finished_at=_seconds(status.get("finished_at")),
            spent=status.get("spent"),
        )

    def status(self, generation: int) -> dict[str, Any]:
        """As it is stored and shown: times in ISO 8601, nothing that is not known."""
        document = {
            "phase": str(self.phase),
            "message": self.message,
            "reason": self.reason or None,
            "observed_generation": generation,
            "made": self.made,
            "ending": self.ending and str(self.ending),
            "trials": dict(self.counts) if self.counts is not None else None,
            "best": dict(self.best) if self.best is not None else None,
            "started_at": _time(self.started_at),
            "opened_at": _time(self.opened_at),
            "stops_obeyed": self.stops_obeyed or None,
            "finished_at": _time(self.finished_at),
            "spent": self.spent,
        }
        return {key: value for key, value in document.items() if value is not None}


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def _seconds(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()
