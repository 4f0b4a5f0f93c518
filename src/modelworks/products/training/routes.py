"""HTTP of training: validation, logs, metrics and cancel."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import ConfigDict, Field
from sqlalchemy import Connection

from modelworks.db import claims, events, resources
from modelworks.kernel.errors import Conflict, FieldError, Invalid
from modelworks.kernel.principal import Principal
from modelworks.kernel.quantities import Duration, format_duration, format_money
from modelworks.kernel.resource import Manifest, Ref, Resource
from modelworks.kernel.run import RunKey
from modelworks.kernel.spec import Spec
from modelworks.products.context import Context, ContextOf, NamePath, PrincipalOf, ReplicaQuery, WorkspaceOf
from modelworks.products.kind import ADVICE_PATIENCE, Lookup
from modelworks.products.logs import LogResponse, Parts, stream
from modelworks.products.merged import Gang, Wanted, merged
from modelworks.products.named import named
from modelworks.products.training import estimates, metrics
from modelworks.products.training.estimates import Estimate
from modelworks.products.training.facade import TRAINING_JOB
from modelworks.products.training.inputs import look
from modelworks.products.training.queries import CANCEL_REQUESTED, history
from modelworks.products.training.record import JobPhase
from modelworks.products.training.spec import TrainingJobSpec
from modelworks.products.training.stacks import Stacks, capture

_routes = APIRouter(prefix="/jobs", tags=["jobs"])


def router() -> APIRouter:
    whole = APIRouter()
    for part in (_routes, metrics.router()):
        whole.routes.extend(part.routes)
    return whole


class Validation(Spec):
    """A manifest that would be accepted, and what would become of it."""

    spec: dict[str, Any]
    resolved: dict[str, Any]
    estimate: Estimate
    notes: list[str] = Field(default_factory=list)


class JobManifest(Manifest):
    """A manifest of the kind TrainingJob."""

    model_config = ConfigDict(json_schema_extra={"examples": [TRAINING_JOB.example]})


@_routes.post("/validate", summary="Check a job's manifest and store nothing", operation_id="validateJob")
def validate(manifest: JobManifest, context: ContextOf, principal: PrincipalOf, workspace: WorkspaceOf) -> Validation:
    """The resolved spec, an estimate of the cost, and notes; every wrong field at once, with its path."""
    if manifest.kind != TRAINING_JOB.name:
        raise Invalid(
            f"expected a {TRAINING_JOB.name}, not a {manifest.kind}",
            fields=(FieldError("kind", f"use {TRAINING_JOB.name}"),),
        )
    spec = TrainingJobSpec.parse(manifest.spec, at="spec")
    metadata = manifest.metadata
    if "workspace" not in metadata.model_fields_set:
        metadata = metadata.model_copy(update={"workspace": workspace})
    elif metadata.workspace != workspace:
        said = f"the manifest is for the workspace {metadata.workspace}, the request for {workspace}"
        raise Invalid(said, fields=(FieldError("metadata.workspace", said),))
    with context.engine.begin() as connection:
        found = TRAINING_JOB.resolve(metadata, spec, _lookup(connection, context, principal))
        before = history(connection, metadata.workspace, metadata.name, metadata.labels)
        # Volumes are locked while they are looked at; nothing is kept.
        connection.rollback()
    answer = estimates.of(spec, found.data, context.settings.currency, before)
    notes = [*found.notes, *look(context.credentials, spec, found.data, ADVICE_PATIENCE)]
    if answer.at_most is not None and spec.time_limit is not None:
        limit = f"in its time limit of {format_duration(spec.time_limit)}"
        why = "its budget" if answer.at_most == spec.budget else limit
        notes.append(f"at most {format_money(answer.at_most)} {answer.currency} {why}")
    return Validation(
        spec=spec.dump(),
        resolved=found.data,
        estimate=answer,
        notes=notes,
    )


@_routes.get(
    "/{name}/log",
    summary="The log of a job",
    operation_id="getJobLog",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def log(
    name: NamePath,
    context: ContextOf,
    workspace: WorkspaceOf,
    follow: Annotated[bool, Query(description="Go on until the job has ended.")] = False,
    offset: Annotated[int, Query(ge=0, le=2**62, description="Bytes to leave out.")] = 0,
    attempt: Annotated[int | None, Query(ge=1, le=10_000, description="Default: all, one after the other.")] = None,
    replica: ReplicaQuery = 0,
    everyone: Annotated[
        bool, Query(alias="all", description="The lines of all replicas, each after its `[rank]`.")
    ] = False,
    grep: Annotated[str, Query(max_length=1000, description="Only lines that hold this text.")] = "",
    ignore_case: Annotated[bool, Query(description="Of `grep`.")] = False,
    since: Annotated[float | None, Query(ge=0, description="Only lines that came then or later, Unix seconds.")] = None,
) -> LogResponse:
    """Standard output and error of a replica as text, across its attempts.

    A client that was cut off asks again with the number of bytes it has as ``offset``. With ``all``, ``grep`` or
    ``since`` it is lines in the order in which they came; of one that was rewritten (``\\r``) its last state, or the
    latest once a second.
    """
    with context.engine.connect() as connection:
        job = named(connection, TRAINING_JOB.name, workspace, name)
    replicas = TrainingJobSpec.parse(job.spec, at="spec").size
    if replica >= replicas:
        raise _beyond("replica", replica, replicas, first=0)
    current, phase = int(job.status.get("attempt", 1)), job.status.get("phase")
    if attempt is not None and attempt > current and not (follow and not (phase and JobPhase(phase).terminal)):
        raise _beyond("attempt", attempt, current, first=1)

    if everyone or grep or since is not None:
        wanted = Wanted(grep, ignore_case, since, marked=everyone)
        ranks = range(replicas) if everyone else range(replica, replica + 1)

        def gangs() -> tuple[list[Gang], bool] | None:
            with context.engine.connect() as connection:
                now = resources.get_by_uid(connection, job.uid)
            return None if now is None else _gangs(now, ranks, attempt)

        lines = merged(context, workspace, gangs, wanted, offset=offset, follow=follow)
        return LogResponse(lines)

    def parts() -> Parts | None:
        with context.engine.connect() as connection:
            now = resources.get_by_uid(connection, job.uid)
        return None if now is None else log_parts(now, replica, attempt)

    return LogResponse(stream(context, workspace, parts, offset, follow=follow))


def _beyond(what: str, number: int, count: int, *, first: int) -> Invalid:
    last = first + count - 1
    told = f"the only one is {first}" if count == 1 else f"they are {first} to {last}"
    said = f"the job has no {what} {number}: {told}"
    return Invalid(said, fields=(FieldError(what, said),))


def log_parts(job: Resource, replica: int, attempt: int | None) -> Parts:
    """The runs of a replica by what the status knows of the job's attempts."""
    status = job.status
    current = int(status.get("attempt", 1))
    terminal = bool(status.get("phase")) and JobPhase(status["phase"]).terminal
    ended = {int(item["n"]) for item in status.get("attempts", ())}
    wanted = range(1, current + 1) if attempt is None else range(attempt, attempt + 1)
    keys = tuple(str(RunKey(job.uid, f"a{n}", replica)) for n in wanted)
    done = sum(n in ended or n < current or terminal for n in wanted)
    complete = terminal or (attempt is not None and done == len(keys))
    return Parts(keys, done, complete)


def _gangs(job: Resource, ranks: range, attempt: int | None) -> tuple[list[Gang], bool]:
    """Each attempt's runs of these ranks, and whether no other attempt follows."""
    by_rank = [log_parts(job, rank, attempt) for rank in ranks]
    count = len(by_rank[0].keys)
    found = [Gang(tuple(parts.keys[n] for parts in by_rank), n < by_rank[0].ended) for n in range(count)]
    return found, by_rank[0].complete


@_routes.get("/{name}/stacks", summary="What the replicas of a job do now", operation_id="getJobStacks")
def stacks(
    name: NamePath,
    context: ContextOf,
    workspace: WorkspaceOf,
    replica: Annotated[int | None, Query(ge=0, le=1023, description="Default: all.")] = None,
) -> Stacks:
    """Stacks of every process, read from outside. Of a job that has ended, those that were taken when it stalled."""
    with context.engine.connect() as connection:
        job = named(connection, TRAINING_JOB.name, workspace, name)
    return capture(context, job, replica)


@_routes.post("/{name}/cancel", status_code=202, summary="Stop a job", operation_id="cancelJob")
def cancel(name: NamePath, context: ContextOf, workspace: WorkspaceOf) -> dict[str, Any]:
    """Its replicas get SIGTERM and their grace period; the job ends as Cancelled. Repeated, nothing more happens."""
    with context.engine.begin() as connection:
        job = named(connection, TRAINING_JOB.name, workspace, name, lock=True)
        phase = job.status.get("phase")
        if phase and JobPhase(phase).terminal:
            raise Conflict(f"the job {name} has ended: {phase}", remedy=f"`mw job delete {name}` removes it")
        if not any(event.reason == CANCEL_REQUESTED for event in events.latest(connection, job.uid, 100)):
            events.append(connection, job.ref, job.uid, CANCEL_REQUESTED, "cancel requested")
        resources.wake(connection, [job.uid])
    return job.document()


class Preemption(Spec):
    """How long the job has to save what it needs; by default what its spec says, and never longer."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"notice": 30}]})

    notice: Duration | None = Field(default=None, ge=0, le=3600)


_WHOLE_NOTICE = Preemption()


@_routes.post(
    "/{name}/preempt", status_code=202, summary="Have a job go on in another attempt", operation_id="preemptJob"
)
def preempt(
    name: NamePath, context: ContextOf, workspace: WorkspaceOf, preemption: Preemption = _WHOLE_NOTICE
) -> dict[str, Any]:
    """As if its machines were taken away: a notice, SIGTERM, SIGKILL when the time is over; then it is queued again.

    Repeated with a shorter notice, the time becomes shorter.
    """
    with context.engine.begin() as connection:
        job = named(connection, TRAINING_JOB.name, workspace, name, lock=True)
        longest = TrainingJobSpec.parse(job.spec, at="spec").notice
        asked = preemption.notice if preemption.notice is not None else longest
        placed = [claim.key for claim in claims.of(connection, [job.uid]).get(job.uid, []) if claim.node is not None]
        if not placed:
            phase = JobPhase(job.status.get("phase") or JobPhase.QUEUED)
            if phase.terminal:
                raise Conflict(f"the job {name} has ended: {phase}")
            raise Conflict(
                f"the job {name} holds no room that could be taken from it: {phase}",
                remedy=f"`mw job cancel {name}` ends it",
            )
        for uid in claims.evict(connection, placed, min(asked, longest), "preempted on request"):
            events.append(connection, job.ref, uid, "Preempting", "preempted on request")
        resources.wake(connection, [job.uid])
    return job.document()


def _lookup(connection: Connection, context: Context, principal: Principal) -> Lookup:
    return Lookup(
        connection,
        context.settings,
        lambda workspace, kind, name: resources.get(connection, Ref(workspace, kind, name)),
        principal,
    )
