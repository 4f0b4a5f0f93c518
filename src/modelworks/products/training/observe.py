"""What a decision about a training job sees of the world."""

from __future__ import annotations

from dataclasses import dataclass

from modelworks.kernel.resource import Resource
from modelworks.kernel.run import RunObservation
from modelworks.products.kind import ClaimView, World
from modelworks.products.training.budget import Funds, Occupation
from modelworks.products.training.queries import cancel_requests, limited, occupied


@dataclass(frozen=True)
class Observed:
    """``cancel_requested_at`` is when somebody asked for the end, in Unix seconds.

    ``occupations`` are the job's rows of the ledger, ``funds`` what its workspace may spend.
    """

    runs: tuple[RunObservation, ...] = ()
    claims: tuple[ClaimView, ...] = ()
    cancel_requested_at: float | None = None
    occupations: tuple[Occupation, ...] = ()
    funds: tuple[Funds, ...] = ()


def observe(resource: Resource, world: World) -> Observed:
    """Raises Unavailable when a node cannot be asked: the job is then left as it is."""
    return Observed(
        runs=tuple(world.runs(resource.uid)),
        claims=tuple(world.claims(resource.uid)),
        cancel_requested_at=world.shared(cancel_requests).get(resource.uid),
        occupations=tuple(world.shared(occupied).get(resource.uid, ())),
        funds=world.shared(limited).get(resource.ref.workspace, ()),
    )
