"""Which replicas may start and which must go, so that a service stays up while it changes. Pure.

A new revision starts ``max_surge`` replicas beside those that serve, and an old one goes for each that became ready;
with ``max_unavailable`` so many go before. Where there is no room for one more, and none comes free in a moment, an old
one goes first, only one at a time. An old one that ends before it was replaced begins again, as long as fewer of the
new ones serve than are wanted, and while the new ones fail there are as many old ones as are wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from modelworks.kernel.run import RunKey, RunObservation
from modelworks.products.kind import ClaimView
from modelworks.products.serving.older import Replica, more
from modelworks.products.serving.record import Slot
from modelworks.products.serving.runs import Service
from modelworks.products.serving.slots import serving

# How admission begins its reason for a claim that fits once somebody else has gone; others never fit.
_FITS_LATER = "waits for capacity"
# After a run ended, admission needs a moment to give its room to somebody: until then its reasons are old.
SETTLE = 5.0
# One that failed before must have waited for so long, and not failed more often, before a replica that serves goes.
_PATIENCE_WITH_FAILING = 30.0
_MOST_FAILURES = 2


@dataclass(frozen=True)
class View:
    """One moment of a service, or of its canary: its slots and everything seen of its runs, by key.

    ``leaving`` are live runs whose slots go on elsewhere.
    """

    service: Service
    slots: Sequence[Slot]
    runs: Mapping[str, RunObservation]
    claims: Mapping[str, ClaimView]
    draining: Mapping[str, float]
    now: float
    older: tuple[Replica, ...] = ()
    squeezed: bool = False
    leaving: frozenset[str] = frozenset()

    def key(self, slot: Slot) -> str:
        return self.service.key(slot.ordinal, slot.incarnation)

    @cached_property
    def replicas(self) -> tuple[Replica, ...]:
        """Every wanted replica: those of older revisions, which hold the service up, first."""
        return (*self.older, *(Replica(self.service, slot) for slot in self.slots))

    @cached_property
    def keys(self) -> frozenset[str]:
        return frozenset(replica.key for replica in self.replicas)

    def lives(self, key: str) -> bool:
        run = self.runs.get(key)
        return run is not None and not run.phase.ended

    def run(self, slot: Slot) -> RunObservation | None:
        return self.runs.get(self.key(slot))

    def slot_serves(self, slot: Slot) -> bool:
        return not slot.stopping and serving(self.run(slot)) and self.key(slot) not in self.draining

    def old(self) -> list[RunObservation]:
        """Live replicas of other revisions, or that leave, and are not on their way out, those that serve first."""
        found = [
            run
            for run in self.runs.values()
            if not run.phase.ended
            and run.key not in self.draining
            and (run.key in self.leaving or RunKey.parse(run.key).attempt != self.service.revision)
        ]
        return sorted(found, key=lambda run: (not serving(run), run.created_at, run.key))

    def failing(self) -> list[Slot]:
        return [slot for slot in self.slots if (slot.failures or slot.stopping) and not self.slot_serves(slot)]


@dataclass(frozen=True)
class HandOver:
    """``gone``: keys of the live runs that from now on get no requests. ``older``: replicas that stay wanted.

    ``squeezed``: an old one goes first, since there is no room for one more.
    """

    gone: tuple[str, ...]
    older: tuple[Replica, ...]
    squeezed: bool = False


def hand_over(view: View) -> HandOver:
    """Who goes now, and who stays."""
    unwanted = [
        run.key
        for run in view.runs.values()
        if not run.phase.ended
        and run.key not in view.keys
        and run.key not in view.draining
        and run.key not in view.leaving
        and RunKey.parse(run.key).attempt == view.service.revision
    ]
    known = {replica.key for replica in view.older}
    old = view.old()
    ready = sum(view.slot_serves(slot) for slot in view.slots)
    needed = max(len(view.slots) - view.service.spec.rolling.max_unavailable - ready, 0)
    kept = [run.key for run in old if serving(run) or run.key in known][:needed]
    gone = [run.key for run in old if run.key not in kept]
    ended = [replica.key for replica in view.older if not view.lives(replica.key)][: needed - len(kept)]
    movable = [key for key in kept if key not in view.leaving]  # the room of the others is for nobody
    squeezed = not gone and bool(movable or ended) and _waits_for_room(view, len(kept))
    if squeezed:
        if ended:
            ended = []  # they would ask for the same room
        else:
            gone.append(movable[-1])
            kept.remove(movable[-1])
    stay = [replica for replica in view.older if replica.key in kept or replica.key in ended]
    missing = needed - len(kept) - len(ended)
    if missing > 0 and not squeezed and stay and view.failing():
        stay += more(stay[0].service, missing, stay, view.runs)
    return HandOver((*unwanted, *gone), tuple(stay), squeezed)


def _waits_for_room(view: View, serving_old: int) -> bool:
    """A replica of the new revision waits for room that an old one holds, and nothing else is under way."""
    failing = view.failing()
    if failing and (serving_old < 2 or max(slot.failures for slot in failing) > _MOST_FAILURES):
        return False
    under_way = view.draining or any(_starts(view, slot) for slot in view.slots)
    if under_way or any(ended_lately(run, view.now) for run in view.runs.values()):
        return False
    patience = _PATIENCE_WITH_FAILING if failing else SETTLE
    waiting = [
        claim
        for slot in view.slots
        if (claim := view.claims.get(view.key(slot))) is not None
        and claim.node is None
        and claim.reason.startswith(_FITS_LATER)
        and view.now - claim.created_at.timestamp() >= patience
    ]
    return bool(waiting)


def asked_lately(claim: ClaimView, now: float) -> bool:
    """Room that somebody gave up when this was claimed may still reach it."""
    return claim.node is None and now - claim.created_at.timestamp() < SETTLE


def ended_lately(run: RunObservation, now: float) -> bool:
    return run.phase.ended and run.exited_at is not None and now - run.exited_at < SETTLE


def _starts(view: View, slot: Slot) -> bool:
    """It has room and does not serve yet."""
    claim = view.claims.get(view.key(slot))
    return claim is not None and claim.node is not None and not view.slot_serves(slot)


def to_reserve(view: View) -> list[Replica]:
    """The replicas that may ask for room now; those that hold a claim or a run are not among them."""
    # A placed claim without a run is a replica about to start, so claims count like runs.
    held = {key for key in view.runs if view.lives(key)} | {
        key for key in view.claims if key not in view.runs and key in view.keys
    }
    most = len(view.slots) + view.service.spec.rolling.max_surge
    chosen: list[Replica] = []
    for replica in view.older:
        if _may_ask(view, replica, held) and len(held) < most:
            held.add(replica.key)
            chosen.append(replica)
    held |= {replica.key for replica in view.older}  # their places are not given away while they wait to begin again
    failing = view.failing()
    rolling = bool(view.old() or view.older)
    for slot in view.slots:
        replica = Replica(view.service, slot)
        # While an older revision serves, a failing new one is not tried in several places at once.
        blocked = rolling and failing and slot not in failing[:1]
        if blocked or not _may_ask(view, replica, held):
            continue
        if len(held) >= most:
            break
        held.add(replica.key)
        chosen.append(replica)
    return chosen


def _may_ask(view: View, replica: Replica, held: set[str]) -> bool:
    due = replica.slot.retry_at is None or replica.slot.retry_at <= view.now
    return due and replica.key not in held and replica.key not in view.runs
