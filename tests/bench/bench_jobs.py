"""Jobs that do nothing, through the queue: how many a second, and what each costs the controller."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any

import psycopg
from tests.bench import processes
from tests.bench.harness import Entry, Figure, Unmeasurable
from tests.cli_platform import fresh

from modelworks.home import Home
from modelworks.sdk.client import Client
from modelworks.supervisor.state import State

PER_SECOND = Figure("training.trivial_jobs_per_s", "/s", 5, "higher")
CONTROLLER_CPU = Figure("training.controller_cpu_ms_per_job", "ms", 20, "lower")
FIGURES = (PER_SECOND, CONTROLLER_CPU)
_JOBS = 200
_PATIENCE = 300.0
# Asked of the database, so that the controller's CPU time is of the jobs alone.
_ENDED = """
SELECT count(*) FILTER (WHERE status->>'phase' = 'Succeeded'), count(*) FILTER (WHERE status->>'phase' = 'Failed')
FROM resources WHERE kind = 'TrainingJob'
"""
_CLAIMS = "SELECT count(*) FROM claims"


def run() -> Sequence[Entry]:
    with fresh() as mw:
        document = json.loads(mw.home.client.read_text())
        client = Client(document["url"], document["api_key"])
        url = json.loads((mw.home.secrets / "database.json").read_text())["url"].replace("+psycopg", "")
        with psycopg.connect(url, autocommit=True) as database:
            _through(client, database, "warm", 4)
            pids = processes.of_platform(mw.home.root)
            names = {pid: processes.name(pid) for pid in pids}
            before, began = processes.cpu_seconds(pids), time.monotonic()
            submitted = _through(client, database, "job", _JOBS)
            seconds = time.monotonic() - began
            after = processes.cpu_seconds(pids)
        client.close()
        controller = _controller(mw.home)
    used: dict[str, float] = {}
    for pid, value in after.items():
        who = names[pid]
        used[who] = used.get(who, 0.0) + value - before.get(pid, 0.0)
    return [
        PER_SECOND.entry(_JOBS / seconds, jobs=_JOBS, seconds=round(seconds, 2), submitted_s=round(submitted, 2)),
        CONTROLLER_CPU.entry(
            1000 * (after[controller] - before[controller]) / _JOBS,
            jobs=_JOBS,
            ms_per_job={who: round(1000 * value / _JOBS, 2) for who, value in used.items()},
        ),
    ]


def _controller(home: Home) -> int:
    identity = State.load(home).processes["controller"].identity
    if identity is None:
        raise Unmeasurable("the controller does not run")
    return identity.pid


def _through(client: Client, database: psycopg.Connection[Any], prefix: str, count: int) -> float:
    """So many more jobs, one request each, until all have ended well and given their room back.

    Returns after how many seconds the last was submitted.
    """
    row = database.execute(_ENDED).fetchone()
    assert row is not None
    wanted, began = row[0] + count, time.monotonic()
    for number in range(count):
        client.apply(
            [
                {
                    "apiVersion": "modelworks/v1",
                    "kind": "TrainingJob",
                    "metadata": {"name": f"{prefix}-{number}"},
                    "spec": {"command": ["/bin/true"], "resources": {"cpu": "100m", "memory": "64Mi"}},
                }
            ]
        )
    submitted = time.monotonic() - began
    while time.monotonic() < began + _PATIENCE:
        row = database.execute(_ENDED).fetchone()
        assert row is not None
        done, failed = row
        if failed:
            raise Unmeasurable(f"{failed} jobs failed")
        if done == wanted and database.execute(_CLAIMS).fetchone() == (0,):
            return submitted
        time.sleep(0.05)
    raise Unmeasurable(f"{count} jobs did not end within {_PATIENCE:g} s")
