"""How many replicas an autoscaled service should have: (spec, state, readings, now) → (state, change). Pure.

The rule is ``ceil(replicas × current ÷ target)`` of the metric that wants the most. Around it, each of them apart:
the tolerance (small differences change nothing), the stabilisation windows (what is wanted must have been wanted for
so long), the cooldowns (so long after an action there is no other in that direction), the bounds, the schedules' floor,
and the way to zero and back. What is not known never takes a replica away, and what is heard of it may ask for one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from modelworks.kernel.traffic import Traffic
from modelworks.products.serving import schedule
from modelworks.products.serving.demand import STEADY, Reading
from modelworks.products.serving.scaling_spec import Autoscaling

# A step of the load is measured while it is answered: for so long after it began, scaling out may still be corrected.
CORRECTION = 5.0
# What is remembered of the recommendations is kept in so many pieces of the longer window.
_PIECES = 20
_SOON = 2.0  # seconds to the next look while something moves


# Since when (Unix seconds) → the lowest or highest recommendation from then on, until the next piece begins.
Piece = tuple[float, int]


@dataclass(frozen=True)
class State:
    """What is remembered between two passes; ``document`` and ``of`` are inverse. Times are Unix seconds.

    ``active_at`` is when a request was there last, exact only once it is quiet: the status is not written each second.
    """

    replicas: int
    active_at: float
    out_at: float | None = None
    in_at: float | None = None
    lows: tuple[Piece, ...] = ()  # for scaling out
    highs: tuple[Piece, ...] = ()  # for scaling in
    schedules: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Self | None:
        """None for the empty document of a service that was never scaled."""
        if "replicas" not in document:
            return None
        return cls(
            replicas=int(document["replicas"]),
            active_at=float(document.get("active_at", 0.0)),
            out_at=document.get("out_at"),
            in_at=document.get("in_at"),
            lows=tuple((float(since), int(value)) for since, value in document.get("lows", ())),
            highs=tuple((float(since), int(value)) for since, value in document.get("highs", ())),
            schedules=document.get("schedules", {}),
        )

    def document(self) -> dict[str, Any]:
        found = {
            "replicas": self.replicas,
            "active_at": self.active_at,
            "out_at": self.out_at,
            "in_at": self.in_at,
            "lows": [list(piece) for piece in self.lows] or None,
            "highs": [list(piece) for piece in self.highs] or None,
            "schedules": dict(self.schedules) or None,
        }
        return {key: value for key, value in found.items() if value is not None}


class ScaleReason(StrEnum):
    """What moved the number of replicas."""

    INITIAL = "Initial"  # its first number
    BOUNDS = "Bounds"  # min or max changed
    SCHEDULE = "Schedule"
    LOAD = "Load"
    IDLE = "Idle"  # nobody asked for `idle` seconds
    FROM_ZERO = "FromZero"  # a request came


@dataclass(frozen=True)
class Change:
    """A decision as it is stored."""

    before: int
    after: int
    reason: ScaleReason
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class Scaled:
    """``why`` says what holds or moved the number, for people; ``wake_in`` is when time alone may change it (s)."""

    state: State
    change: Change | None
    why: str
    recommended: int
    wake_in: float | None


def first_replicas(scaling: Autoscaling) -> int:
    """How many a service begins with."""
    first = scaling.initial if scaling.initial is not None else max(scaling.min, scaling.prewarm)
    return min(max(first, scaling.min), scaling.max)


def step(
    scaling: Autoscaling,
    state: State | None,
    readings: Sequence[Reading],
    traffic: Traffic,
    ready: int,
    now: float,
) -> Scaled:
    """One look. ``ready`` is how many replicas serve. It never leaves the bounds, whatever it is given."""
    begun = state is None
    if state is None:
        # A service that ran without a scale goes on with what it has.
        first = min(max(ready, scaling.min), scaling.max) if ready else first_replicas(scaling)
        state = State(first, now if first else 0.0, lows=((now, first),), highs=((now, first),))
    clock = schedule.floor(scaling, state.schedules, now)
    before, current = state.replicas, min(max(state.replicas, scaling.min), scaling.max)
    # What starts is not idle before it serves: a model may take longer to load than nobody asks for it.
    active = now if not traffic.known(now) or (state.replicas and not ready) else traffic.active_at(now)
    state = _noted(scaling, state, clock.state, active, now)
    active = max(state.active_at, active or 0.0)
    idle = now - active >= scaling.idle
    kept = 0 if idle else min(max(scaling.prewarm, 1), scaling.max)
    least = max(scaling.min, min(clock.replicas, scaling.max))
    # A gateway or courier that says nothing must not hold up who waits at another.
    last = traffic.last if traffic.known(now) or traffic.heard().known(now) else None
    numbers: dict[str, Any] = {
        "metrics": [reading.document(current) for reading in readings],
        "ready": ready,
        "in_flight": last.in_flight if last else None,
        "queued": last.queued if last else None,
    }
    if current == 0:
        waits = last is not None and (last.demand > 0 or _arrived_lately(traffic, state, now))
        wanted = max(first_replicas(scaling), min(scaling.prewarm, scaling.max), 1) if waits else least
        recommended, why = wanted, "a request waits" if waits else "no request: it has no replicas until one comes"
        reason = ScaleReason.FROM_ZERO if waits and wanted > least else ScaleReason.SCHEDULE
        state = _remembered(scaling, state, wanted, now)
    else:
        recommended = _recommended(readings, current, scaling.tolerance) if ready else current
        state = _remembered(scaling, state, recommended, now)
        wanted, reason, why = _wanted(scaling, state, current, recommended, now)
        # Stabilisation is for a load that goes up and down; where there is none any more, `idle` alone says when.
        if idle and least < current <= max(scaling.prewarm, scaling.initial or 0, 1):
            wanted, reason, why = least, ScaleReason.IDLE, f"no request for {scaling.idle:g} s"
        if wanted < max(least, kept) and (wanted := min(max(least, kept), current)) == current:
            why = _why_kept(scaling, active, clock, least, now)
    if wanted < least:
        wanted, reason = least, ScaleReason.SCHEDULE
        why = f"the schedule {clock.name} asks for at least {clock.replicas}"
    wanted = min(max(wanted, scaling.min), scaling.max)
    if begun:
        reason, why = ScaleReason.INITIAL, "it begins"
    elif wanted == current != before:
        reason, why = ScaleReason.BOUNDS, f"min is {scaling.min} and max is {scaling.max}"
    elif recommended > wanted == current == scaling.max:
        why = f"at max: {recommended} would be wanted"
    change = None
    if wanted != before or begun:
        numbers |= {"recommended": recommended, "why": why}
        numbers |= {"schedule": clock.name} if reason == ScaleReason.SCHEDULE and clock.name else {}
        change = Change(before if not begun else ready, wanted, reason, numbers)
        state = _acted(state, wanted, reason, now)
    return Scaled(
        state, change, why, recommended, _wake_in(scaling, state, clock, traffic, readings, recommended, active, now)
    )


def _recommended(readings: Sequence[Reading], current: int, tolerance: float) -> int:
    """The most that a metric wants. One that is not known wants what there is: it may have wanted more."""
    found = [reading.wanted(current, tolerance) for reading in readings]
    return max((current if one is None else one for one in found), default=current)


def _wanted(
    scaling: Autoscaling, state: State, current: int, recommended: int, now: float
) -> tuple[int, ScaleReason, str]:
    """After stabilisation and cooldown: how many, the reason of a change, and why for people."""
    lowest = min(recommended, scaling.max, *_inside(state.lows, scaling.scale_out_stabilization, now))
    highest = max(recommended, *_inside(state.highs, scaling.scale_in_stabilization, now), 0)
    if lowest > current:
        until = (state.out_at or 0.0) + scaling.scale_out_cooldown
        correcting = _correcting(state, now)
        if until > now and not correcting:
            return current, ScaleReason.LOAD, f"{lowest} are wanted; scale_out_cooldown for another {until - now:.0f} s"
        return lowest, ScaleReason.LOAD, f"the load asks for {recommended}"
    # A load that fell at once is seen to fall over some seconds: those are one step, and the last of them counts.
    window = scaling.scale_in_stabilization
    later = max(recommended, *_inside(state.highs, window - min(STEADY, window / 2), now), 0)
    if later < highest < current:
        return current, ScaleReason.LOAD, f"{highest} would do, and {later} in a moment"
    if highest < current:
        until = (state.in_at or 0.0) + scaling.scale_in_cooldown
        if until > now:
            return current, ScaleReason.LOAD, f"{highest} would do; scale_in_cooldown for another {until - now:.0f} s"
        return highest, ScaleReason.LOAD, f"the load asked for {highest} at the most in {window:g} s"
    if recommended > current and current < scaling.max:
        wait = scaling.scale_out_stabilization
        return current, ScaleReason.LOAD, f"{recommended} are wanted; that has to hold for {wait:g} s (stabilisation)"
    if recommended < current:
        return (
            current,
            ScaleReason.LOAD,
            f"{recommended} would do; {highest} were wanted within {window:g} s (stabilisation)",
        )
    return current, ScaleReason.LOAD, "what there is is what is wanted, within the tolerance"


def _correcting(state: State, now: float) -> bool:
    """The last action was to scale out, a moment ago."""
    return state.out_at is not None and state.out_at >= (state.in_at or 0.0) and now - state.out_at <= CORRECTION


def _inside(pieces: Sequence[Piece], window: float, now: float) -> list[int]:
    """The recommendations that were there within the window."""
    ends = [*(since for since, _ in pieces[1:]), math.inf]
    return [value for (_, value), end in zip(pieces, ends, strict=False) if end > now - window]


def _remembered(scaling: Autoscaling, state: State, recommended: int, now: float) -> State:
    return replace(
        state,
        lows=_pieces(state.lows, scaling.scale_out_stabilization, recommended, now, min),
        highs=_pieces(state.highs, scaling.scale_in_stabilization, recommended, now, max),
    )


def _pieces(
    pieces: tuple[Piece, ...], window: float, recommended: int, now: float, pick: Callable[[int, int], int]
) -> tuple[Piece, ...]:
    """With this recommendation: a piece takes up others while it is young, so that few are kept."""
    if not window:
        return ()
    since, value = pieces[-1] if pieces else (now, recommended)
    if not pieces:
        pieces = ((round(now, 3), recommended),)
    elif now - since < window / _PIECES and pick(value, recommended) == value:
        pass  # a moment's exception in the direction that does not count
    elif recommended != value:
        pieces = (*pieces, (round(now, 3), recommended))
        if len(pieces) > 2 and now - since < window / _PIECES:
            pieces = (*pieces[:-2], (since, recommended))
        if len(pieces) > 1 and pieces[-2][1] == pieces[-1][1]:
            pieces = pieces[:-1]
    while len(pieces) > 1 and pieces[1][0] <= now - window:
        pieces = pieces[1:]
    return pieces


def _noted(scaling: Autoscaling, state: State, schedules: Mapping[str, Any], active: float | None, now: float) -> State:
    """When a request was there last."""
    noted = state.active_at
    if active is not None and active > noted:
        # Every write of the status is an event for all who watch: exact only when it matters, which is when it ends.
        coarse = min(max(scaling.idle / 10, 1.0), 60.0)
        if active - noted > coarse or (active < now - coarse / 2 and active - noted > 0.01):
            noted = round(active, 3)
    return replace(state, active_at=noted, schedules=schedules)


def _arrived_lately(traffic: Traffic, state: State, now: float) -> bool:
    """A request came and went since the last replica was sent away: refused, or given up."""
    active = traffic.active_at(now)
    return active is not None and active > max(state.in_at or 0.0, now - 5.0)


def _why_kept(scaling: Autoscaling, active: float, clock: schedule.Floor, least: int, now: float) -> str:
    if least > scaling.min:
        return f"the schedule {clock.name} asks for at least {clock.replicas}"
    left = max(active + scaling.idle - now, 0.0)
    return f"kept until nobody has asked for {scaling.idle:g} s: about {left:.0f} s more"


def _acted(state: State, wanted: int, reason: ScaleReason, now: float) -> State:
    moment, out_at, in_at = round(now, 3), state.out_at, state.in_at
    if wanted > state.replicas:
        # A correction belongs to the action it corrects.
        out_at = out_at if reason == ScaleReason.LOAD and _correcting(state, now) else moment
    elif wanted < state.replicas:
        in_at = moment
    # From zero it counts as active from now on, however long the request that woke it waits.
    active = moment if reason == ScaleReason.FROM_ZERO else state.active_at
    return replace(state, replicas=wanted, active_at=active, out_at=out_at, in_at=in_at)


def _wake_in(
    scaling: Autoscaling,
    state: State,
    clock: schedule.Floor,
    traffic: Traffic,
    readings: Sequence[Reading],
    recommended: int,
    active: float,
    now: float,
) -> float | None:
    """When the clock alone may move something; a change of the traffic wakes the service by itself."""
    waits = [clock.next_at - now] if clock.next_at is not None else []
    if state.replicas > scaling.min:
        waits.append(max(active + scaling.idle - now, 0.0) or _SOON)
    busy = any(reading.total for reading in readings)
    if state.replicas and (busy or recommended != state.replicas or not traffic.known(now)):
        waits.append(_SOON)
    return max(min(waits), 0.1) if waits else None
