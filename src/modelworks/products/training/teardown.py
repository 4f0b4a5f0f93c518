"""What takes processes and room away from a job: stops of what lives, releases of what has ended. Pure."""

from __future__ import annotations

from modelworks.kernel.decision import Action, Release, StopRun
from modelworks.kernel.quantities import parse_duration
from modelworks.kernel.resource import Resource
from modelworks.products.training.observe import Observed


def grace_period(resource: Resource) -> float:
    """Of a job that is to end for good; a resource that is being deleted is not parsed any more."""
    return parse_duration(resource.spec.get("grace_period", 30.0))


def stops(observed: Observed, reason: str, seconds: float, message: str = "") -> tuple[Action, ...]:
    """``message``: what the programs read in their notice."""
    living = (run for run in observed.runs if not run.phase.ended)
    return tuple(StopRun(run.node, run.key, seconds, reason, message) for run in living)


def releases(
    observed: Observed, keep: list[str] | None = None, hold: frozenset[str] = frozenset()
) -> tuple[Action, ...]:
    """Give back the room of runs that ended, at the time they did, and of claims outside ``keep`` that have none.

    Claims of ``hold`` stay in any case.
    """
    runs = {run.key: run for run in observed.runs}
    released: list[Action] = []
    for claim in observed.claims:
        run = runs.get(claim.key)
        if claim.key in hold:
            continue
        if run is None and claim.key not in (keep or ()):
            released.append(Release(claim.key))
        elif run is not None and run.phase.ended:
            released.append(Release(claim.key, run.exited_at))
    return tuple(released)
