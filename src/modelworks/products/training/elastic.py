"""Jobs that work with more replicas or fewer: how many an attempt has, who goes on into the next, and when it grows.

An attempt has one size from its beginning to its end. To shrink or to grow it ends by a notice, as one that is
preempted, and the next goes on from its checkpoint on the room that the attempts hand on (``Transfer``). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from modelworks.kernel.decision import Action, Release, Reserve, Transfer
from modelworks.kernel.run import RunObservation, RunPhase, RunReason
from modelworks.products.kind import ClaimView
from modelworks.products.training.record import Notice, Record
from modelworks.products.training.runs import Job

# Their nodes are gone, or are not to be trusted with the next attempt.
_UNFIT = frozenset({RunReason.LOST, RunReason.LEASE_EXPIRED, RunReason.STORE_UNREACHABLE, RunReason.PREFLIGHT_FAILED})
HANDED_ON = frozenset({RunReason.PREEMPTED, RunReason.RESIZED, RunReason.LOST, RunReason.LEASE_EXPIRED})
"""Ends of an attempt after which the replicas that are left go on."""


def begun_size(job: Job, attempt: int, claims: Mapping[str, ClaimView]) -> int | None:
    """With how many replicas an attempt can begin now: the first ordinals that have room; None: not enough have."""
    least = job.spec.elastic.min if job.spec.elastic else job.spec.size
    count = 0
    for key in job.keys(attempt):
        claim = claims.get(key)
        if claim is None or claim.node is None or claim.evict_at is not None:
            break
        count += 1
    return count if count >= least else None


def heirs(
    job: Job, record: Record, observed: Sequence[ClaimView], runs: Mapping[str, RunObservation]
) -> list[ClaimView]:
    """The claims of an ended attempt on whose room the next can go on, by ordinal; none if they are too few."""
    if job.spec.elastic is None:
        return []
    claims = {claim.key: claim for claim in observed}
    began = record.seen(record.attempt)
    found = []
    for ordinal, key in enumerate(job.keys(record.attempt)):
        claim, run = claims.get(key), runs.get(key)
        fit = (run is None and ordinal not in began) or (run is not None and run.reason not in _UNFIT)
        if claim is not None and claim.node is not None and claim.evict_at is None and fit:
            found.append(claim)
    return found if len(found) >= job.spec.elastic.min else []


def hand_on(
    job: Job, attempt: int, found: Sequence[ClaimView], runs: Mapping[str, RunObservation]
) -> tuple[Action, ...]:
    """The room of an ended attempt becomes that of ``attempt``, whose replicas count from 0 again."""
    wanted = job.claims(attempt)
    return tuple(
        Transfer(old.key, new, runs[old.key].exited_at if old.key in runs else None)
        for old, new in zip(found, wanted, strict=False)
    )


def grows_at(job: Job, record: Record, runs: Iterable[RunObservation]) -> float | None:
    """From when on an attempt may end to go on with more replicas, in Unix seconds; None for one that may not."""
    elastic, size, keys = job.spec.elastic, record.size, job.keys(record.attempt)
    working = [run for run in runs if run.key in keys and run.phase is RunPhase.RUNNING]
    began = [run.started_at for run in working if run.started_at is not None]
    if elastic is None or size is None or size >= job.spec.size or len(began) < size:
        return None
    return max(began) + elastic.grow_after


def grow(
    job: Job, record: Record, mine: Mapping[int, RunObservation], claims: Mapping[str, ClaimView], now: float
) -> tuple[Notice | None, tuple[Action, ...]]:
    """Ask for room for further replicas once an attempt has worked for long enough; a notice when there is some."""
    elastic, size = job.spec.elastic, record.size
    if elastic is None or size is None or size >= job.spec.size:
        return None, ()
    further = job.claims(record.attempt)[size:]
    got = [claims[claim.key] for claim in further if claim.key in claims and claims[claim.key].node is not None]
    wanted_back = [claim for claim in got if claim.evict_at is not None]
    if wanted_back:
        return None, tuple(Release(claim.key) for claim in wanted_back)
    if got:
        message = f"there is room for {size + len(got)} replicas instead of {size}"
        return Notice(str(RunReason.RESIZED), message, now, now + job.spec.notice), ()
    due = grows_at(job, record, mine.values())
    if due is None or now < due or all(claim.key in claims for claim in further):
        return None, ()
    return None, (Reserve(tuple(replace(claim, optional=True) for claim in further)),)
