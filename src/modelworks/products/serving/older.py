"""The replicas of older revisions that nothing has replaced yet: kept alive until the current one serves. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice

from modelworks.kernel.run import RunKey, RunObservation
from modelworks.products.serving.record import Record, Revision, Slot
from modelworks.products.serving.runs import Service
from modelworks.products.serving.slots import advanced, first_slot, serving
from modelworks.products.serving.spec import ServiceSpec


@dataclass(frozen=True)
class Replica:
    """One wanted replica, and the revision of the service that it runs."""

    service: Service
    slot: Slot

    @cached_property
    def key(self) -> str:
        return self.service.key(self.slot.ordinal, self.slot.incarnation)


def older_replicas(
    service: Service,
    before: Record,
    runs: Mapping[str, RunObservation],
    now: float,
    hung: Collection[str] = (),
) -> tuple[Replica, ...]:
    """Those of the pass before, each moved on by what was seen of its run.

    Of a revision that was current until now, the replicas that serve or did so well: what never came up, or fails, is
    not worth a second process beside its successor.
    """
    found = []
    for name, revision in before.revisions.items():
        if name == service.revision:
            continue
        own = replace(service, spec=ServiceSpec.parse(revision.spec, at="spec"), resolved=revision.resolved)
        own = replace(own, revision=name)
        for slot in before.slots if name == before.revision else revision.slots:
            key = own.key(slot.ordinal, slot.incarnation)
            run = runs.get(key)
            well = slot.served and not slot.failures
            if key not in before.draining and (name != before.revision or well or serving(run)):
                found.append(Replica(own, advanced(slot, run, now, hung=key in hung)))
    return tuple(sorted(found, key=lambda replica: (replica.slot.failures, replica.key)))


def more(like: Service, count: int, taken: Sequence[Replica], runs: Mapping[str, RunObservation]) -> list[Replica]:
    """So many more replicas of an older revision, beside those there are: its successor fails and more are wanted."""
    used = {replica.slot.ordinal for replica in taken if replica.service.revision == like.revision}
    used |= {
        key.ordinal
        for key, run in ((RunKey.parse(run.key), run) for run in runs.values())
        if key.attempt == like.revision and not run.phase.ended
    }
    free = (ordinal for ordinal in range(len(used) + count) if ordinal not in used)
    return [Replica(like, first_slot(like, ordinal, runs.values())) for ordinal in islice(free, count)]


def revisions(service: Service, slots: Iterable[Slot], older: Iterable[Replica]) -> dict[str, Revision]:
    """What is to be remembered of every revision with a wanted replica that has served."""
    found: dict[str, Revision] = {}
    if any(slot.served for slot in slots):
        found[service.revision] = Revision(service.spec.dump(), service.resolved)
    for replica in older:
        own = replica.service
        known = found.get(own.revision) or Revision(own.spec.dump(), own.resolved)
        found[own.revision] = replace(known, slots=(*known.slots, replica.slot))
    return found
