"""When to start what, as pure functions of the units, what is seen of them, and the time.

Times are seconds of one monotonic clock, given as arguments.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

FIRST_DELAY = 0.2
LONGEST_DELAY = 30.0
HEALTHY_AFTER = 10.0
"""A process that was ready for so long works: its end, whatever it was, is no reason to wait before it starts again."""
ASKED_AFTER = 0.5
"""A good end of a process that was ready for so long was asked for, by SIGTERM: it starts again at once."""
GIVE_UP_AFTER = 3
"""Failures of one process, never yet ready, after which `mw up` fails rather than waits."""
STARTUP_TIMEOUT = 120.0
MOST_DRAINING = 8
"""Processes that drain beside their successors. Gateways have sixteen numbers, of which eight may be in service."""


class Phase(StrEnum):
    """Where one process is."""

    WAITING = "waiting"  # for what it needs
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "restarting"
    DONE = "done"  # a step that has ended well
    IDLE = "on demand"  # it starts when somebody asks for it
    DRAINING = "draining"  # its successor has its place


@dataclass(frozen=True)
class Need:
    """One unit as far as decisions go. A ``step`` runs once to its end; others are meant to stay.

    One ``on_demand`` starts when it is wanted; nothing waits for it, and no start of the platform fails with it.
    """

    name: str
    after: tuple[str, ...] = ()
    step: bool = False
    on_demand: bool = False


@dataclass(frozen=True)
class Seen:
    """What is known of one unit. ``failures`` counts the ends in a row, ``done`` is a step's good end.

    ``wanted``: somebody has asked for a unit that starts on demand.
    """

    running: bool = False
    ready_since: float | None = None
    exited_at: float | None = None
    failures: int = 0
    was_ready: bool = False
    done: bool = False
    wanted: bool = False

    @property
    def usable(self) -> bool:
        return self.done or (self.running and self.ready_since is not None)


@dataclass(frozen=True)
class Plan:
    """Start these now, and look again at ``wake_at`` even if nothing happens."""

    start: tuple[str, ...] = ()
    wake_at: float | None = None


@dataclass(frozen=True)
class GiveUp:
    """The start of the platform has failed because of ``name``."""

    name: str
    reason: str


def delay(failures: int) -> float:
    """Seconds to wait after so many failures in a row: 0.2, 0.4, 0.8 … 30."""
    if failures <= 0:
        return 0.0
    return min(FIRST_DELAY * 2.0 ** min(failures - 1, 20), LONGEST_DELAY)


def failures_after(failures: int, ready_since: float | None, now: float, *, good: bool = False) -> int:
    """The count after an end at ``now`` that the supervisor did not want; ``good``: with exit code 0."""
    if ready_since is None:
        return failures + 1
    return 0 if now - ready_since >= (ASKED_AFTER if good else HEALTHY_AFTER) else failures + 1


def plan(needs: Mapping[str, Need], seen: Mapping[str, Seen], now: float) -> Plan:
    """What to start. A unit that needs one that is not in ``needs`` (yet) waits for it."""
    start: list[str] = []
    wakes: list[float] = []
    for name, need in needs.items():
        one = seen.get(name, Seen())
        if one.running or one.done or (need.on_demand and not one.wanted):
            continue
        if not all(other in needs and seen.get(other, Seen()).usable for other in need.after):
            continue
        due = one.exited_at + delay(one.failures) if one.exited_at is not None else now
        if due <= now:
            start.append(name)
        else:
            wakes.append(due)
    return Plan(tuple(start), min(wakes, default=None))


def phase(need: Need, one: Seen, seen: Mapping[str, Seen]) -> Phase:
    if one.done:
        return Phase.DONE
    if one.running:
        return Phase.READY if one.ready_since is not None else Phase.STARTING
    if need.on_demand and not one.wanted:
        return Phase.IDLE
    if not all(seen.get(other, Seen()).usable for other in need.after):
        return Phase.WAITING
    return Phase.BACKOFF if one.failures else Phase.WAITING


def all_usable(needs: Mapping[str, Need], seen: Mapping[str, Seen]) -> bool:
    return all(seen.get(name, Seen()).usable for name, need in needs.items() if not need.on_demand)


def give_up(needs: Mapping[str, Need], seen: Mapping[str, Seen], began: float, now: float) -> GiveUp | None:
    """Whether the first start has failed: a process that ends again and again, or one that never answers."""
    needs = {name: need for name, need in needs.items() if not need.on_demand}
    for name in needs:
        one = seen.get(name, Seen())
        if not one.was_ready and not one.usable and one.failures >= GIVE_UP_AFTER:
            return GiveUp(name, f"{name} ended {one.failures} times")
    if now - began < STARTUP_TIMEOUT:
        return None
    for name in needs:
        one = seen.get(name, Seen())
        if one.running and not one.usable:
            return GiveUp(name, f"{name} does not answer after {STARTUP_TIMEOUT:.0f} s")
    for name in needs:
        if not seen.get(name, Seen()).usable:
            return GiveUp(name, f"{name} did not start within {STARTUP_TIMEOUT:.0f} s")
    return None
