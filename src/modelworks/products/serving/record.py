"""The status of a service: what a decision remembers of the passes before it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Self

from modelworks.products.serving.alerts import Breach, conditions


class ServicePhase(StrEnum):
    """Where a service is. Only ``STOPPED`` is at rest; a ``FAILED`` one is tried again with back-off.

    ``IDLE`` is scaled to zero: a request starts a replica.
    """

    PENDING = "Pending"
    STARTING = "Starting"
    RUNNING = "Running"
    IDLE = "Idle"
    DEGRADED = "Degraded"
    FAILED = "Failed"
    STOPPED = "Stopped"
    DELETING = "Deleting"


@dataclass(frozen=True)
class Slot:
    """One wanted replica: which incarnation of it is or will be running.

    ``failures`` counts bad ends in a row, ``retry_at`` (Unix seconds) is when the incarnation may start. ``stopping``
    is why we stop it ourselves, and ``cause`` how the last one ended. ``served``: the gateway has sent it requests.

    ``halvings``: how often its batch size and concurrency were halved since it ran out of memory, the last time or the
    last step back at ``halved_at`` (Unix seconds).
    """

    ordinal: int
    incarnation: int = 0
    failures: int = 0
    retry_at: float | None = None
    stopping: str = ""
    reason: str = ""
    cause: str = ""
    served: bool = False
    halvings: int = 0
    halved_at: float | None = None


@dataclass(frozen=True)
class Revision:
    """What a revision that has served needs to be started again: spec and facts as apply left them.

    ``slots`` are those of its replicas that nothing has replaced yet; the current revision has its own in the record.
    """

    spec: Mapping[str, Any]
    resolved: Mapping[str, Any]
    slots: tuple[Slot, ...] = ()


@dataclass(frozen=True)
class Beside:
    """The canary: its revision and replicas, and since when (Unix seconds) it is judged."""

    revision: str
    since: float
    slots: tuple[Slot, ...] = ()


@dataclass(frozen=True)
class Replaced:
    """The revision that another one takes over from, or just did: what the new one is judged against ``since`` then.

    ``until`` is set when the last old replica has gone, and is when the old one is forgotten. Both in Unix seconds.
    """

    revision: str
    by: str
    since: float
    spec: Mapping[str, Any]
    resolved: Mapping[str, Any]
    until: float | None = None


@dataclass(frozen=True)
class Reversed:
    """A revision that was taken back at ``at`` (Unix seconds), and why; ``numbers`` are what it was judged by.

    ``resumed`` is the service's count of resumptions at that time: another one makes it void. ``back`` is the revision
    that serves in its place; of a canary there is none.
    """

    at: float
    reason: str
    numbers: Mapping[str, Any]
    resumed: int = 0
    back: Replaced | None = None


@dataclass(frozen=True)
class Record:
    """A service's status between two passes; ``status`` and ``of`` are inverse.

    ``draining`` maps the key of a run that is no longer routed to → since when (Unix seconds).
    ``revisions`` are those that have served and have replicas that are wanted. ``scale`` is what the
    autoscaler remembers.
    """

    phase: ServicePhase = ServicePhase.PENDING
    message: str = ""
    reason: str = ""
    revision: str = ""
    slots: tuple[Slot, ...] = ()
    revisions: Mapping[str, Revision] = field(default_factory=dict)
    draining: Mapping[str, float] = field(default_factory=dict)
    replicas: tuple[Mapping[str, Any], ...] = ()
    ready: int = 0
    last_lines: tuple[str, ...] = ()
    scale: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[str, ...] = ()
    canary: Beside | None = None
    replaced: Replaced | None = None
    reversed: Mapping[str, Reversed] = field(default_factory=dict)
    squeezed: bool = False
    alerts: Mapping[str, Breach] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, status: Mapping[str, Any]) -> Self:
        if not status.get("phase"):
            return cls()
        return cls(
            phase=ServicePhase(status["phase"]),
            message=status.get("message", ""),
            reason=status.get("reason", ""),
            revision=status.get("revision", ""),
            slots=tuple(_slot(slot) for slot in status.get("slots", ())),
            revisions={name: _revision(found) for name, found in status.get("revisions", {}).items()},
            draining={key: _seconds(since) for key, since in status.get("draining", {}).items()},
            replicas=tuple(status.get("replicas", ())),
            ready=status.get("ready", 0),
            last_lines=tuple(status.get("last_lines", ())),
            scale=status.get("scale", {}),
            history=tuple(status.get("history", ())),
            canary=_beside(status["canary"]) if status.get("canary") else None,
            replaced=_replaced(status["replaced"]) if status.get("replaced") else None,
            reversed={name: _reversed(found) for name, found in status.get("reversed", {}).items()},
            squeezed=bool(status.get("squeezed")),
            alerts={name: Breach.of(found) for name, found in status.get("alerts", {}).items()},
            warnings=tuple(status.get("warnings", ())),
        )

    def status(self, generation: int, path: str) -> dict[str, Any]:
        """As it is stored and shown. ``path`` is where the gateway serves it."""
        state = "True" if self.phase in _SERVES else "False"
        document = {
            "phase": str(self.phase),
            "message": self.message,
            "reason": self.reason or None,
            "conditions": [
                {"type": "Ready", "status": state, "reason": self.reason or str(self.phase), "message": self.message},
                *conditions(self.alerts),
            ],
            "observed_generation": generation,
            "path": path,
            "revision": self.revision,
            "ready": self.ready,
            "replicas": [dict(replica) for replica in self.replicas],
            "slots": [_slot_document(slot) for slot in self.slots],
            "revisions": {name: _revision_document(found) for name, found in sorted(self.revisions.items())},
            "draining": {key: _time(since) for key, since in sorted(self.draining.items())},
            "last_lines": list(self.last_lines) or None,
            "scale": dict(self.scale) or None,
            "history": list(self.history) or None,
            "canary": _beside_document(self.canary) if self.canary else None,
            "replaced": _replaced_document(self.replaced) if self.replaced else None,
            "reversed": {name: _reversed_document(found) for name, found in sorted(self.reversed.items())} or None,
            "squeezed": self.squeezed or None,
            "alerts": {name: breach.document() for name, breach in sorted(self.alerts.items())} or None,
            "warnings": list(self.warnings) or None,
        }
        return {key: value for key, value in document.items() if value is not None}


_SERVES = (ServicePhase.RUNNING, ServicePhase.DEGRADED, ServicePhase.IDLE)


def _beside_document(beside: Beside) -> dict[str, Any]:
    slots = [_slot_document(slot) for slot in beside.slots]
    return {"revision": beside.revision, "since": _time(beside.since), "slots": slots}


def _beside(document: Mapping[str, Any]) -> Beside:
    slots = tuple(_slot(slot) for slot in document.get("slots", ()))
    return Beside(document["revision"], _seconds(document["since"]), slots)


def _replaced_document(replaced: Replaced) -> dict[str, Any]:
    document = {
        "revision": replaced.revision,
        "by": replaced.by,
        "since": _time(replaced.since),
        "spec": dict(replaced.spec),
        "resolved": dict(replaced.resolved),
        "until": None if replaced.until is None else _time(replaced.until),
    }
    return {key: value for key, value in document.items() if value is not None}


def _replaced(document: Mapping[str, Any]) -> Replaced:
    until = document.get("until")
    return Replaced(
        document["revision"],
        document["by"],
        _seconds(document["since"]),
        document["spec"],
        document["resolved"],
        None if until is None else _seconds(until),
    )


def _reversed_document(found: Reversed) -> dict[str, Any]:
    document = {
        "at": _time(found.at),
        "reason": found.reason,
        "numbers": dict(found.numbers),
        "resumed": found.resumed or None,
        "back": _replaced_document(found.back) if found.back else None,
    }
    return {key: value for key, value in document.items() if value is not None}


def _reversed(document: Mapping[str, Any]) -> Reversed:
    back = document.get("back")
    return Reversed(
        _seconds(document["at"]),
        document["reason"],
        document["numbers"],
        document.get("resumed", 0),
        _replaced(back) if back else None,
    )


def _slot_document(slot: Slot) -> dict[str, Any]:
    document = {
        "ordinal": slot.ordinal,
        "incarnation": slot.incarnation,
        "failures": slot.failures or None,
        "retry_at": None if slot.retry_at is None else _time(slot.retry_at),
        "stopping": slot.stopping or None,
        "reason": slot.reason or None,
        "cause": slot.cause or None,
        "served": slot.served or None,
        "halvings": slot.halvings or None,
        "halved_at": None if slot.halved_at is None else _time(slot.halved_at),
    }
    return {key: value for key, value in document.items() if value is not None}


def _slot(document: Mapping[str, Any]) -> Slot:
    retry_at, halved_at = document.get("retry_at"), document.get("halved_at")
    return Slot(
        ordinal=document["ordinal"],
        incarnation=document.get("incarnation", 0),
        failures=document.get("failures", 0),
        retry_at=None if retry_at is None else _seconds(retry_at),
        stopping=document.get("stopping", ""),
        reason=document.get("reason", ""),
        cause=document.get("cause", ""),
        served=document.get("served", False),
        halvings=document.get("halvings", 0),
        halved_at=None if halved_at is None else _seconds(halved_at),
    )


def _revision_document(revision: Revision) -> dict[str, Any]:
    slots = [_slot_document(slot) for slot in revision.slots]
    return {"spec": dict(revision.spec), "resolved": dict(revision.resolved), "slots": slots}


def _revision(document: Mapping[str, Any]) -> Revision:
    return Revision(document["spec"], document["resolved"], tuple(_slot(slot) for slot in document["slots"]))


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="microseconds")


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
