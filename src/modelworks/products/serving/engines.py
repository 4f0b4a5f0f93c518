"""What a service's replicas do now, as their nodes and engines tell: for `explain` and for Prometheus. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from pydantic import Field

from modelworks.kernel.run import RunObservation
from modelworks.kernel.spec import Spec
from modelworks.products.serving.hung import replica_id

# A GPU that is hardly ever idle, and whose memory hardly ever works.
_BUSY, _HARDLY = 0.95, 0.2
# Of a run's usage, and what Prometheus calls it.
_FAMILIES = {
    "kv_cache": "mw_engine_kv_cache_ratio",
    "running": "mw_engine_requests_running",
    "waiting": "mw_engine_requests_waiting",
    "tokens_per_second": "mw_engine_tokens_per_second",
    "batch_mean": "mw_engine_batch_rows_mean",
    "gpu": "mw_replica_gpu_busy_ratio",
    "gpu_memory_busy": "mw_replica_gpu_memory_busy_ratio",
}


class ReplicaNow(Spec):
    """One replica that is ready.

    ``usage``: ``cpu`` (cores), ``memory`` (bytes), with GPUs ``gpu`` and ``gpu_memory_busy`` (share of the time, 0-1);
    of the engine ``kv_cache`` (0-1), ``running`` and ``waiting`` (requests), ``tokens_per_second``, ``batch_mean``
    (rows), each where it says so. ``notes`` are what is remarkable in them.
    """

    replica: str
    usage: dict[str, float]
    notes: tuple[str, ...] = Field(default=())


def replicas_now(runs: Iterable[RunObservation]) -> list[ReplicaNow]:
    """Of those that are ready and were measured."""
    return [
        ReplicaNow(replica=replica_id(run.key), usage=_shown(run.usage), notes=notes(run.usage))
        for run in sorted(runs, key=lambda run: run.key)
        if run.ready and run.usage
    ]


def _shown(usage: Mapping[str, float]) -> dict[str, float]:
    """Without a GPU its use is no news."""
    return {name: value for name, value in usage.items() if name != "gpu" or "gpu_memory_busy" in usage}


def notes(usage: Mapping[str, float]) -> tuple[str, ...]:
    """What is remarkable: a GPU that counts as busy all the time though little is done on it."""
    busy, memory = usage.get("gpu", 0.0), usage.get("gpu_memory_busy")
    if memory is None or busy < _BUSY or memory > _HARDLY:
        return ()
    return (
        f"the GPU is busy for {busy:.0%} of the time, but hardly reading memory ({memory:.0%}): small pieces of work "
        f"one after the other, or computing alone; larger batches or more requests at once may do more in that time",
    )


def render(replicas: Mapping[str, Iterable[ReplicaNow]]) -> Iterator[str]:
    """Lines of Prometheus text for the replicas of each service; a family of which nothing is known is left out."""
    rows = [(service, one) for service, found in replicas.items() for one in found]
    for name, family in _FAMILIES.items():
        series = [
            f'{family}{{service="{service}",replica="{one.replica}"}} {one.usage[name]:g}'
            for service, one in rows
            if name in one.usage
        ]
        if series:
            yield f"# TYPE {family} gauge"
            yield from series
