"""Outputs that several attempts might write at once: each has a folder of its own, and the winner is copied. Pure.

A run on a node that may be cut off can be late with its last words. So where the user named one folder for the output,
such a run writes beside it, in ``.modelworks/`` of the same bucket, and the controller copies what an attempt committed
once all of it has. Without a named folder every attempt has its own anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelworks.kernel.decision import Action, CopyObjects, RemoveObjects
from modelworks.kernel.run import RunObservation
from modelworks.products.training.record import outputs_of
from modelworks.products.training.runs import MODEL_OUTPUT, Job, attempts_uri


def publications(job: Job, attempt: int, mine: Mapping[int, RunObservation]) -> tuple[Action, ...]:
    """What is to be copied of an attempt that succeeded; then nobody needs the folders of any attempt."""
    copies: list[Action] = [
        CopyObjects(source, job.output_uri(attempt, rank))
        for rank, run in sorted(mine.items())
        if (source := _committed(run)) is not None and source != job.output_uri(attempt, rank)
    ]
    return (*copies, RemoveObjects(attempts_uri(job.uid, job.resolved))) if copies else ()


def published(job: Job, attempt: int, mine: Mapping[int, RunObservation]) -> tuple[dict[str, Any], ...]:
    """The outputs of an attempt where they are for everybody."""
    return tuple(
        output | {"uri": job.output_uri(attempt, rank)} if output["name"] == MODEL_OUTPUT else output
        for rank in sorted(mine)
        for output in outputs_of(mine[rank])
    )


def leftovers(uid: str, resolved: Mapping[str, Any]) -> tuple[Action, ...]:
    """Of a job that goes: what its attempts wrote and nobody copied."""
    return (RemoveObjects(attempts_uri(uid, resolved)),) if resolved.get("output") else ()


def _committed(run: RunObservation) -> str | None:
    uri = run.outputs.get(MODEL_OUTPUT, {}).get("uri")
    return str(uri) if uri else None
