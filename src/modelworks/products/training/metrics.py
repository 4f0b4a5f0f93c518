"""HTTP of what jobs use and report, while they run and when their nodes are gone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import ConfigDict
from pydantic.config import JsonDict

from modelworks.kernel.errors import NotFound, Unavailable
from modelworks.kernel.run import RunKey
from modelworks.kernel.spec import Spec
from modelworks.products import logs
from modelworks.products.context import Context, ContextOf, NamePath, ReplicaQuery, WorkspaceOf
from modelworks.products.named import named
from modelworks.products.training.series import Series, parse, thinned

_routes = APIRouter(prefix="/jobs", tags=["jobs"])
_PIECE = 4 << 20


_EXAMPLE: JsonDict = {
    "replica": 0,
    "items": [
        {
            "name": "loss",
            "count": 1,
            "last": 0.25,
            "least": 0.25,
            "greatest": 0.25,
            "points": [{"step": 100, "value": 0.25, "at": 1767225600.0}],
        }
    ],
}


def router() -> APIRouter:
    return _routes


class MetricsSample(Spec):
    """One sample of a replica: Unix seconds, cores, bytes, and 0-1 for a GPU's load."""

    model_config = ConfigDict(extra="allow")

    at: float


class Metrics(Spec):
    """Samples of one replica, oldest first."""

    replica: int
    attempt: int
    items: list[MetricsSample]


class ReportedPoint(Spec):
    """A value at a step; ``at`` is when it was reported (Unix seconds)."""

    step: int
    value: float
    at: float


class ReportedSeries(Spec):
    """The values of one name by step; ``count`` is how many there were before they were thinned."""

    name: str
    count: int
    last: float
    least: float
    greatest: float
    points: list[ReportedPoint]


class Reports(Spec):
    """What a replica reported, across its attempts."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    replica: int
    items: list[ReportedSeries]


AttemptQuery = Annotated[int | None, Query(ge=1, le=10_000, description="Default: the latest.")]


@_routes.get("/{name}/metrics", summary="CPU, memory and I/O of a job's replica", operation_id="getJobMetrics")
def metrics(
    name: NamePath, context: ContextOf, workspace: WorkspaceOf, attempt: AttemptQuery = None, replica: ReplicaQuery = 0
) -> Metrics:
    """One sample each two seconds of the run, of its last hour; as of its last minute once its node is gone."""
    with context.engine.connect() as connection:
        job = named(connection, "TrainingJob", workspace, name)
    number = attempt if attempt is not None else int(job.status.get("attempt", 1))
    samples = _samples(context, workspace, str(RunKey(job.uid, f"a{number}", replica)))
    return Metrics(replica=replica, attempt=number, items=[MetricsSample.parse(sample) for sample in samples])


@_routes.get("/{name}/reports", summary="What a job reported by step", operation_id="getJobReports")
def reports(
    name: NamePath,
    context: ContextOf,
    workspace: WorkspaceOf,
    attempt: Annotated[int | None, Query(ge=1, le=10_000, description="Only of this one; default: all.")] = None,
    replica: ReplicaQuery = 0,
    names: Annotated[list[str] | None, Query(alias="name", description="Only these; may be repeated.")] = None,
    points: Annotated[int, Query(ge=1, le=10_000, description="At most so many of each.")] = 500,
) -> Reports:
    """Values that the script reported, or that were found in its log, by step.

    Steps that a later attempt did again are those of the later one. Of more than ``points`` values the lowest and
    highest of each stretch are given.
    """
    with context.engine.connect() as connection:
        job = named(connection, "TrainingJob", workspace, name)
    numbers = range(1, int(job.status.get("attempt", 1)) + 1) if attempt is None else (attempt,)
    series = Series(frozenset(names) if names is not None else None)
    for number in numbers:
        series.add(parse(_lines(context, workspace, str(RunKey(job.uid, f"a{number}", replica)))))
    wanted = sorted(series.points) if names is None else [one for one in names if one in series.points]
    return Reports(replica=replica, items=[_shown(series, one, points) for one in wanted if series.points[one]])


def _shown(series: Series, name: str, most: int) -> ReportedSeries:
    found = series.of(name)
    values = [value for _, value, _ in found]
    return ReportedSeries(
        name=name,
        count=len(found),
        last=values[-1],
        least=min(values),
        greatest=max(values),
        points=[ReportedPoint(step=step, value=value, at=at) for step, value, at in thinned(found, most)],
    )


def _samples(context: Context, workspace: str, key: str) -> list[dict[str, Any]]:
    for runtime in context.holders(key):
        try:
            return list(runtime.metrics(key))
        except (NotFound, Unavailable):
            continue
    text = logs.stored(context, workspace, key, "samples.jsonl")
    return [json.loads(line) for line in text.splitlines() if line.endswith(b"}")]


def _lines(context: Context, workspace: str, key: str) -> Iterator[bytes]:
    """The lines of a run's reports, which may be hundreds of megabytes: piece by piece."""
    offset, rest = 0, b""
    while piece := logs.read(context, workspace, key, offset, _PIECE, "reports"):
        offset += len(piece)
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    yield rest
