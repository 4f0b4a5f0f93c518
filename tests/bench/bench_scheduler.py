"""A pass of admission over a long queue on a full cluster: every waiting gang gets its reason, on the real tables."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Sequence
from datetime import timedelta

from sqlalchemy import Connection, Engine, func, select, update
from tests import engines
from tests.bench.harness import Entry, Figure

from modelworks.control.queue import gangs, occupants, quotas, views
from modelworks.control.scheduler import admit
from modelworks.db import claims, nodes, resources
from modelworks.db.engine import connect
from modelworks.db.migrate import migrate
from modelworks.db.tables import nodes as table
from modelworks.embedded import postgres
from modelworks.heap import keep_loaded
from modelworks.kernel.decision import Claim
from modelworks.kernel.gang import Refusal
from modelworks.kernel.placement import place
from modelworks.kernel.resource import Ref
from modelworks.kernel.run import NodeObservation, Resources
from modelworks.products.quotas.facade import limits

PASS = Figure("scheduler.pass_ms", "ms", 60, "lower")
FIGURES = (PASS,)
_WAITING = 2_000
_NODES = 200
_WORKSPACES = ("vision", "speech", "text")
_ROUNDS = 15
_SHAPES = [(cpu, memory, count) for cpu in (4, 8, 16) for memory in (8, 16, 32) for count in (1, 1, 2)]


def run() -> Sequence[Entry]:
    with engines.temporary_home() as home:
        # The database alone: a controller would make passes of its own over the same claims, and these wait for them.
        launch = postgres.prepare(home)
        with engines.running(launch, lambda: postgres.ready(home), home.root / "postgres.log"):
            url = postgres.database_url(home)
            migrate(url)
            engine = connect(url)
            try:
                return [_measure(engine)]
            finally:
                engine.dispose()


def _measure(engine: Engine) -> Entry:
    _fill(engine)
    first = _timed(lambda: admit(engine))
    keep_loaded()  # as the controller does when it has started
    processor = time.process_time()
    whole = [_timed(lambda: admit(engine)) for _ in range(_ROUNDS)]
    processor = (time.process_time() - processor) * 1000 / _ROUNDS
    with engine.connect() as connection:
        stored, machines, found = claims.everything(connection), nodes.everything(connection), limits(connection)
        now = connection.scalar(select(func.now()))
        assert now is not None
    waiting = [claim for claim in stored if claim.node is None]

    def decide() -> int:
        silence = timedelta(hours=1)
        results = place(
            gangs(waiting, stored, now),
            views(machines, stored, now, silence),
            occupants(stored),
            quotas(found, stored),
        )
        return sum(isinstance(result, Refusal) and bool(result.reason) for result in results)

    told = decide()
    alone = [_timed(decide) for _ in range(_ROUNDS)]
    return PASS.medians(
        whole,
        cpu_ms=round(processor, 2),
        decision_ms=round(statistics.median(alone), 2),
        first_pass_ms=round(first, 1),
        waiting=told,
        claims=len(stored),
        nodes=len(machines),
    )


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1000


def _fill(engine: Engine) -> None:
    """200 full nodes in ten zones, and behind them 2,000 gangs of one or two replicas in three workspaces."""
    rest = random.Random(5)
    with engine.begin() as connection:
        for number in range(_NODES):
            shape = Resources.parse({"cpu": 32, "memory": "128Gi", "gpu": 4 if number % 4 == 0 else 0})
            labels = {"zone": f"z{number % 10}"}
            nodes.put(connection, NodeObservation(name=f"n{number:03}", capacity=shape, labels=labels))
            resources_of = {"cpu": 30, "memory": "120Gi", "gpu": shape.gpu}
            _want(connection, f"busy-{number}", "vision", Resources.parse(resources_of), 1, 5, {}, node=f"n{number:03}")
        # Nobody answers for them while this is measured.
        connection.execute(update(table).values(seen_at=func.now() + timedelta(hours=1)))
        resources.insert_new(connection, Ref("speech", "Quota", "speech"), {"cpu": "100"}, {}, {})
        for number in range(_WAITING):
            cpu, memory, count = rest.choice(_SHAPES)
            wanted = Resources.parse({"cpu": cpu, "memory": f"{memory}Gi", "gpu": rest.choice((0, 0, 0, 1))})
            selector = {"zone": f"z{rest.randrange(10)}"} if rest.random() < 0.1 else {}
            workspace = rest.choice(_WORKSPACES)
            _want(connection, f"job-{number}", workspace, wanted, count, rest.choice((0, 0, 5)), selector)


def _want(
    connection: Connection,
    name: str,
    workspace: str,
    wanted: Resources,
    count: int,
    priority: int,
    selector: dict[str, str],
    node: str | None = None,
) -> None:
    made = resources.insert_new(connection, Ref(workspace, "Bench", name), {}, {}, {})
    assert made is not None
    wishes = [
        Claim(
            f"{made.uid}/a1/{rank}/0",
            "a1",
            wanted,
            "bench.type",
            1.0,
            priority=priority,
            preemptible=True,
            node_selector=selector,
        )
        for rank in range(count)
    ]
    claims.reserve(connection, made.uid, wishes)
    if node is not None:
        claims.place(connection, wishes[0].key, node)
