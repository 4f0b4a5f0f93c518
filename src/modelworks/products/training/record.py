"""The status of a training job: what a decision remembers of the passes before it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from modelworks.kernel.run import RunObservation, RunPhase, RunReason


class JobPhase(StrEnum):
    """``QUEUED`` → ``PREPARING`` → ``RUNNING`` → ``FINALIZING`` → ``SUCCEEDED``; each may turn to the others."""

    QUEUED = "Queued"
    PREPARING = "Preparing"
    RUNNING = "Running"
    STALLED = "Stalled"  # it runs, and does nothing; what does something again is Running
    PREEMPTING = "Preempting"
    FINALIZING = "Finalizing"
    RETRYING = "Retrying"
    CANCELLING = "Cancelling"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"
    CANCELLED = "Cancelled"

    @property
    def terminal(self) -> bool:
        return self in (JobPhase.SUCCEEDED, JobPhase.FAILED, JobPhase.CANCELLED)


@dataclass(frozen=True)
class Attempt:
    """One attempt that ended. Times are Unix seconds; an attempt that never started has no ``started``.

    ``infrastructure``: the platform's fault and not the workload's; such an attempt costs no retry. ``replicas`` is how
    many an elastic job had. ``node`` is where something was found missing before the command began.
    """

    n: int
    reason: str
    message: str
    started: float | None = None
    ended: float | None = None
    exit_code: int | None = None
    infrastructure: bool = False
    replicas: int | None = None
    node: str = ""

    @property
    def seconds(self) -> float:
        """How long its replicas ran, by the clock."""
        return max(self.ended - self.started, 0.0) if self.started is not None and self.ended is not None else 0.0


@dataclass(frozen=True)
class Notice:
    """An attempt is to end, so that another may go on: why, since when, and by when. Unix seconds."""

    reason: str
    message: str
    at: float
    deadline: float


@dataclass(frozen=True)
class Record:
    """A job's status between two passes; ``status`` and ``of`` are inverse.

    ``size`` is how many replicas an elastic job's attempt began with; None before that, and for other jobs.
    """

    phase: JobPhase = JobPhase.QUEUED
    message: str = ""
    reason: str = ""
    attempt: int = 1
    attempts: tuple[Attempt, ...] = ()
    replicas: tuple[Mapping[str, Any], ...] = ()
    outputs: tuple[Mapping[str, Any], ...] = ()
    started_at: float | None = None
    finished_at: float | None = None
    retry_at: float | None = None
    cancel_requested_at: float | None = None
    last_lines: tuple[str, ...] = ()
    notice: Notice | None = None
    size: int | None = None
    progress: Mapping[str, Any] | None = None
    warnings: tuple[str, ...] = ()
    cost: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> Self:
        if not status.get("phase"):
            return cls()
        return cls(
            phase=JobPhase(status["phase"]),
            message=status.get("message", ""),
            reason=status.get("reason", ""),
            attempt=status.get("attempt", 1),
            attempts=tuple(_attempt(item) for item in status.get("attempts", ())),
            replicas=tuple(status.get("replicas", ())),
            outputs=tuple(status.get("outputs", ())),
            started_at=_seconds(status.get("started_at")),
            finished_at=_seconds(status.get("finished_at")),
            retry_at=_seconds(status.get("retry_at")),
            cancel_requested_at=_seconds(status.get("cancel_requested_at")),
            last_lines=tuple(status.get("last_lines", ())),
            notice=_notice(status.get("notice")),
            size=status.get("size"),
            progress=status.get("progress"),
            warnings=tuple(status.get("warnings", ())),
            cost=status.get("cost"),
        )

    def status(self, generation: int) -> dict[str, Any]:
        """As it is stored and shown: times in ISO 8601, nothing that is not known."""
        done = {JobPhase.SUCCEEDED: "True", JobPhase.FAILED: "False", JobPhase.CANCELLED: "False"}
        document = {
            "phase": str(self.phase),
            "message": self.message,
            "reason": self.reason or None,
            "conditions": [
                {
                    "type": "Complete",
                    "status": done.get(self.phase, "Unknown"),
                    "reason": self.reason or str(self.phase),
                    "message": self.message,
                }
            ],
            "observed_generation": generation,
            "attempt": self.attempt,
            "attempts": [_document(attempt) for attempt in self.attempts],
            "replicas": [dict(replica) for replica in self.replicas],
            "outputs": [dict(output) for output in self.outputs],
            "started_at": _time(self.started_at),
            "finished_at": _time(self.finished_at),
            "retry_at": _time(self.retry_at),
            "cancel_requested_at": _time(self.cancel_requested_at),
            "last_lines": list(self.last_lines) or None,
            "notice": self.notice and _notice_document(self.notice),
            "size": self.size,
            "progress": self.progress and dict(self.progress),
            "warnings": list(self.warnings) or None,
            "cost": self.cost and dict(self.cost),
        }
        return {key: value for key, value in document.items() if value is not None}

    def seen(self, attempt: int) -> frozenset[int]:
        """The ordinals that were once seen to exist in this attempt."""
        return frozenset(int(replica["ordinal"]) for replica in self.replicas if replica["attempt"] == attempt)

    def completed(self, attempt: int) -> dict[int, RunObservation]:
        """The runs of this attempt that were seen to complete, by ordinal.

        Their room was given back, so their nodes may be gone, or not heard of yet: they are complete all the same.
        """
        lines = [line for line in self.replicas if line["attempt"] == attempt]
        return {int(line["ordinal"]): _completed(line) for line in lines if line.get("reason") == RunReason.COMPLETED}


def replica(attempt: int, ordinal: int, run: RunObservation) -> dict[str, Any]:
    """One line of ``status.replicas``."""
    document = {
        "ordinal": ordinal,
        "attempt": attempt,
        "key": run.key,
        "node": run.node,
        "phase": str(run.phase),
        "reason": str(run.reason) or None,
        "exit_code": run.exit_code,
        "started_at": _time(run.started_at),
        "exited_at": _time(run.exited_at),
        "outputs": [dict(output) for output in outputs_of(run)] or None,
    }
    return {key: value for key, value in document.items() if value is not None}


def _completed(line: Mapping[str, Any]) -> RunObservation:
    """The run of such a line."""
    started = _seconds(line.get("started_at"))
    return RunObservation(
        key=line["key"],
        phase=RunPhase(line["phase"]),
        reason=RunReason.COMPLETED,
        node=line["node"],
        created_at=started or 0.0,
        started_at=started,
        exited_at=_seconds(line.get("exited_at")),
        exit_code=line.get("exit_code"),
        outputs={output["name"]: dict(output) for output in line.get("outputs", ())},
    )


def outputs_of(run: RunObservation) -> tuple[dict[str, Any], ...]:
    """What a run committed: name, URI, digest and size of each output."""
    return tuple(
        {"name": name, **{field: found[field] for field in ("uri", "digest", "size") if field in found}}
        for name, found in sorted(run.outputs.items())
    )


def _document(attempt: Attempt) -> dict[str, Any]:
    document = {
        "n": attempt.n,
        "started": _time(attempt.started),
        "ended": _time(attempt.ended),
        "reason": attempt.reason,
        "message": attempt.message,
        "exit_code": attempt.exit_code,
        "infrastructure": attempt.infrastructure or None,
        "replicas": attempt.replicas,
        "node": attempt.node or None,
    }
    return {key: value for key, value in document.items() if value is not None}


def _attempt(document: Mapping[str, Any]) -> Attempt:
    return Attempt(
        n=document["n"],
        reason=document.get("reason", str(RunReason.FAILED)),
        message=document.get("message", ""),
        started=_seconds(document.get("started")),
        ended=_seconds(document.get("ended")),
        exit_code=document.get("exit_code"),
        infrastructure=bool(document.get("infrastructure")),
        replicas=document.get("replicas"),
        node=document.get("node", ""),
    )


def _notice_document(notice: Notice) -> dict[str, Any]:
    times = {"at": _time(notice.at), "deadline": _time(notice.deadline)}
    return {"reason": notice.reason, "message": notice.message, **times}


def _notice(document: Mapping[str, Any] | None) -> Notice | None:
    if document is None:
        return None
    at, deadline = _seconds(document["at"]), _seconds(document["deadline"])
    return Notice(document["reason"], document["message"], at or 0.0, deadline or 0.0)


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def _seconds(text: str | None) -> float | None:
    return None if text is None else datetime.fromisoformat(text).timestamp()
