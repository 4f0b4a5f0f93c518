"""Many jobs of several workspaces in the queue while the controller is killed, and a witness in the database.

The witness looks at every transaction that places a claim, when it commits: it notes gangs that are placed in part, and
workspaces that hold more than their quota.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from tests.agents import poll
from tests.cli_platform import Mw

from modelworks.sdk import jobs
from modelworks.sdk.client import Client
from modelworks.sdk.waiting import phase_of
from modelworks.supervisor.state import State

WORKSPACES = {"vision": 4, "speech": 2, "text": 3}
"""The most instances of each at once."""

_TYPE = "custom"
_WITNESS = f"""
CREATE TABLE witness (said text);
CREATE FUNCTION witness() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO witness
    SELECT 'gang ' || gang || ' is placed in part' FROM claims WHERE uid = NEW.uid
    GROUP BY gang HAVING count(node) NOT IN (0, count(*));
    INSERT INTO witness
    SELECT r.workspace || ' holds ' || count(*) FROM claims c JOIN resources r USING (uid)
    WHERE c.node IS NOT NULL GROUP BY r.workspace
    HAVING count(*) > CASE r.workspace {" ".join(f"WHEN '{w}' THEN {most}" for w, most in WORKSPACES.items())} END;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER witness AFTER UPDATE OF node ON claims
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION witness();
"""
# Two replicas end only together: one that was started alone would wait for ever.
_WORK = """
import pathlib, os, time
marks, me = pathlib.Path("/mnt/marks"), os.environ["MW_JOB"]
(marks / f"{me}.{os.environ['MW_ATTEMPT']}.{os.environ['RANK']}.{time.time_ns()}").touch()
while len(list(marks.glob(f"{me}.{os.environ['MW_ATTEMPT']}.*"))) < int(os.environ["WORLD_SIZE"]):
    time.sleep(0.02)
"""


@contextmanager
def witnessed(mw: Mw) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the platform's database, with the witness in it."""
    url = json.loads((mw.home.secrets / "database.json").read_text())["url"].replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_WITNESS)
        yield connection


def limit(client: Client) -> None:
    """A quota and a volume for marks in each workspace."""
    for workspace, most in WORKSPACES.items():
        metadata = {"name": "most", "workspace": workspace}
        volume = {"name": "marks", "workspace": workspace}
        client.within(workspace).apply(
            [
                {"kind": "Quota", "metadata": metadata, "spec": {"instances": {_TYPE: most}}},
                {"kind": "Volume", "metadata": volume, "spec": {"size": "1Gi", "shared": True}},
            ]
        )


def submit(client: Client, count: int, rest: random.Random) -> list[tuple[str, str]]:
    """Jobs of one or two replicas and several priorities, in turns: their workspaces and names."""
    made: list[tuple[str, str]] = []
    for number in range(count):
        workspace, name = rest.choice(sorted(WORKSPACES)), f"j{number:03}"
        spec = {
            "command": ["python", "-c", _WORK],
            "resources": {"cpu": "100m", "memory": "64Mi"},
            "replicas": rest.choice((1, 1, 2)),
            "priority": rest.choice((0, 0, 5)),
            "preemptible": False,
            "preflight": {"network": False},
            "volumes": [{"name": "marks", "mount_path": "/mnt/marks"}],
            "grace_period": "1s",
        }
        metadata = {"name": name, "workspace": workspace}
        client.within(workspace).apply([{"kind": jobs.KIND, "metadata": metadata, "spec": spec}])
        made.append((workspace, name))
    return made


def ended(client: Client) -> int:
    return sum(
        bool(phase_of(job) in ("Succeeded", "Failed", "Cancelled"))
        for workspace in WORKSPACES
        for job in client.within(workspace).resources(jobs.KIND)
    )


def explained(client: Client) -> None:
    """Everybody who waits has a place and a reason."""
    for workspace in WORKSPACES:
        items = client.within(workspace).queue()["items"]
        places = [entry["position"] for entry in items]
        assert places == sorted(set(places))
        priorities = [entry["priority"] for entry in items]
        assert priorities == sorted(priorities, reverse=True)
        assert [entry for entry in items if not entry["reason"]] == []


def kill_controller(mw: Mw) -> None:
    identity = State.load(mw.home).processes["controller"].identity
    assert identity is not None
    os.kill(identity.pid, signal.SIGKILL)
    poll(lambda: not identity.alive())


def ordeal(mw: Mw, client: Client, count: int, kills: int, seed: int) -> None:
    """``count`` jobs through the queue while the controller is killed so often: none is lost, nothing exceeded."""
    rest = random.Random(seed)
    limit(client)
    with witnessed(mw) as database:
        made = submit(client, count, rest)
        for number in range(kills):
            explained(client)
            wanted = count * (number + 1) // (kills + 2)
            poll(lambda wanted=wanted: ended(client) >= wanted, 600)  # type: ignore[misc]
            kill_controller(mw)
        for workspace, name in made:
            job = jobs.wait(client.within(workspace), name)
            assert phase_of(job) == "Succeeded", job["status"]
            assert len(job["status"]["attempts"]) == 1, job["status"]["attempts"]
        assert database.execute("SELECT * FROM witness").fetchall() == []
        assert database.execute("SELECT count(*) FROM claims").fetchone() == (0,)
    marks = sorted(path.name.rpartition(".")[0] for folder in mw.home.volumes.iterdir() for path in folder.iterdir())
    assert len(marks) == len(set(marks)), "a replica was started twice"
