"""Which replicas are replaced because they hold requests and say nothing. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from modelworks.kernel.run import RunKey, RunObservation
from modelworks.kernel.traffic import Traffic
from modelworks.products.serving.record import Slot
from modelworks.products.serving.slots import HUNG, serving

GRACE = 2.0
"""Seconds before SIGKILL: what hangs has nothing to finish."""
_FRESH = 10.0  # seconds; what a gateway said before that may be over


def replica_id(key: str) -> str:
    """A replica in routes, reports and answers. While one revision takes over from another both have its ordinal."""
    parsed = RunKey.parse(key)
    return f"{parsed.attempt[:6]}-{parsed.ordinal}-{parsed.incarnation}"


def hung_replicas(
    traffic: Traffic,
    runs: Mapping[str, RunObservation],
    slots: Mapping[str, Slot],
    draining: Collection[str],
    now: float,
) -> frozenset[str]:
    """The keys of the runs to stop now; ``slots`` are those of the pass before, by key.

    When all of them hang, what hangs may be what they all wait for: then one is replaced after the other.
    """
    last = traffic.last
    if last is None or not last.hung or now - last.at > _FRESH:
        return frozenset()
    stopping = {key for key, slot in slots.items() if slot.stopping}
    up = {key for key, run in runs.items() if serving(run) and key not in draining and key not in stopping}
    hung = {key for key in up if replica_id(key) in last.hung}
    if hung != up or not hung:
        return frozenset(hung)
    replacing = any(HUNG in (slot.stopping, slot.reason) and key not in up for key, slot in slots.items())
    return frozenset() if replacing else frozenset((min(hung),))
