"""An attempt that is to end so that another can go on: who wants its room, by when, what its end counts as. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from modelworks.kernel.quantities import format_duration
from modelworks.kernel.run import RunObservation, RunReason
from modelworks.products.kind import ClaimView
from modelworks.products.training.attempts import failed_runs, followed
from modelworks.products.training.record import Notice

_ON_REQUEST = "preempted on request"
# What happens to a rank whose peers are being stopped, or whose machine goes, is no failure of its own.
_BY_THE_NOTICE = frozenset({RunReason.FAILED, RunReason.LOST, RunReason.LEASE_EXPIRED, RunReason.START_FAILED})


def noticed(known: Notice | None, claims: Iterable[ClaimView], now: float) -> Notice | None:
    """The notice of an attempt that has these claims. One that was given stands; its time may only become shorter."""
    wanted = [(claim.evict_at, claim) for claim in claims if claim.evict_at is not None]
    if not wanted:
        return known
    deadline, claim = min(wanted, key=lambda item: item[0])
    if known is None or known.reason != RunReason.PREEMPTED:
        given = known.at if known else now
        first = deadline if known is None else min(deadline, known.deadline)
        return Notice(str(RunReason.PREEMPTED), claim.evict_reason or _ON_REQUEST, given, first)
    return replace(known, deadline=min(known.deadline, deadline))


def grace(notice: Notice, longest: float, now: float) -> float:
    """Seconds between SIGTERM and SIGKILL that are left of a notice; a job asks for ``longest`` at most."""
    return max(0.0, min(notice.deadline - now, longest))


def describe(notice: Notice, longest: float, now: float) -> str:
    left = grace(notice, longest, now)
    return f"{notice.message}: {format_duration(round(left))} to save and end" if left >= 1 else notice.message


def covers(notice: Notice | None, mine: Mapping[int, RunObservation]) -> bool:
    """Whether an ended attempt ended by its notice, and not by something that would have ended it anyway."""
    if notice is None:
        return False
    return all(
        followed(run) or (run.reason in _BY_THE_NOTICE and (run.exited_at is None or run.exited_at >= notice.at))
        for _, run in failed_runs(mine)
    )
