"""What the replicas of a job do now, asked of their nodes; of a job that has ended, what was last taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from pydantic import ConfigDict, Field
from sqlalchemy import Connection, select

from modelworks.db.tables import events
from modelworks.kernel.errors import Conflict, NotFound, Unavailable
from modelworks.kernel.resource import Resource
from modelworks.kernel.run import RunKey, RunPhase
from modelworks.kernel.spec import Spec
from modelworks.products.context import Context

_EVENT = "Stacks"  # what the controller appends when a decision wishes for stacks
_AT_ONCE = 16


class ReplicaStacks(Spec):
    """``stacks`` is text: every process, and of Pythons every thread with its frames, the innermost first."""

    replica: int
    attempt: int
    node: str
    at: datetime
    stacks: str


class Stacks(Spec):
    """``live``: taken now; else they are the last that the watchdog had taken."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"live": True, "items": []}]})

    live: bool
    items: list[ReplicaStacks] = Field(default_factory=list)


def capture(context: Context, job: Resource, replica: int | None) -> Stacks:
    """Of one replica or all. Raises NotFound when there is nothing to tell."""
    # What the status says may be a moment old: nodes are asked of all that is not known to have ended.
    running = [
        line
        for line in job.status.get("replicas", ())
        if not RunPhase(line["phase"]).ended and replica in (None, line["ordinal"])
    ]
    if running:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            told = [one for one in pool.map(lambda line: _live(context, line), running) if one is not None]
        if told:
            return Stacks(live=True, items=told)
    with context.engine.connect() as connection:
        kept = [one for one in _kept(connection, job.uid) if replica in (None, one.replica)]
    if not kept:
        phase = job.status.get("phase", "Queued")
        which = "job" if replica is None else f"replica {replica}"
        raise NotFound(
            f"there are no stacks of {job.ref.name}: its phase is {phase}, and no process of the {which} lives",
            remedy=f"`mw job log {job.ref.name}` shows how it came to that",
        )
    return Stacks(live=False, items=kept)


def _live(context: Context, line: Mapping[str, Any]) -> ReplicaStacks | None:
    """None for a replica that has no process, yet or any more."""
    node = str(line["node"])
    try:
        text = context.runtimes[node].stacks(str(line["key"]))
    except (NotFound, Conflict):
        return None
    except (Unavailable, KeyError):
        text = f"node {node} cannot be asked now"
    return ReplicaStacks(replica=line["ordinal"], attempt=line["attempt"], node=node, at=datetime.now(UTC), stacks=text)


def _kept(connection: Connection, uid: str) -> Sequence[ReplicaStacks]:
    """The last of each replica, of the latest attempt that has any."""
    query = select(events.c.at, events.c.data).where(events.c.uid == uid, events.c.reason == _EVENT)
    found: dict[int, ReplicaStacks] = {}
    attempt = None
    for row in connection.execute(query.order_by(events.c.seq.desc())):
        number = int(RunKey.parse(row.data["key"]).attempt.removeprefix("a"))
        attempt = attempt or number
        if number == attempt:
            one = ReplicaStacks(
                replica=row.data["rank"], attempt=number, node=row.data["node"], at=row.at, stacks=row.data["stacks"]
            )
            found.setdefault(one.replica, one)
    return [found[rank] for rank in sorted(found)]
