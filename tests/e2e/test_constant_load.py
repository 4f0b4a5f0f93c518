"""A service that is called two hundred times a second, whatever is done to it and to the platform below it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import textwrap
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests import leftovers, ordeals
from tests.agents import poll
from tests.cli_platform import Mw
from tests.constant_load import constant

from modelworks.products.serving.hung import replica_id
from modelworks.sdk.client import Client

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("constant-load")]


def test_every_request_is_answered_whatever_happens(
    mw: Mw, client: Client, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    echo = ordeals.Echo(mw, client, tmp_path, replicas=2)
    with constant(client.service_endpoint("echo"), client.service_token("echo")) as calls:
        calls.last(1)
        ordeals.rolling_update(echo, calls, "2")
        ordeals.canary(echo, calls, "3")
        ordeals.rollback(echo, calls, "2")
        ordeals.gateway_restarts(mw, calls, 15)
        ordeals.killed(mw, calls, "controller")
        ordeals.database_down(mw, calls, 10)
        ordeals.database_silent(mw, calls, 3)
        calls.last(1)
    record_property("calls", str(calls.seen))
    assert calls.seen.failed == [], str(calls.seen)
    assert calls.seen.right == calls.seen.sent
    mw.ok("service", "delete", "echo")


# Its answers take a moment, so that something is under way whenever one of its processes ends.
STEADY = """
    import os, threading, time
    class Steady:
        def initialize(self):
            self.hangs = False
        def process(self, data):
            self.hangs = self.hangs or bool(data.get("hang"))
            if self.hangs:
                threading.Event().wait()
            time.sleep(data.get("takes", 0.02))
            return {"number": data.get("number"), "version": "1"}
    """
PLACES = 5  # requests at once in one replica of a class, and its threads


def create(mw: Mw, folder: Path, name: str, **spec: Any) -> str:
    """A service of ``STEADY``; its uid."""
    (folder / "steady.py").write_text(textwrap.dedent(STEADY))
    own = {"processor": "python", "entry": "steady.py:Steady", "code": "."}
    spec = {**own, "resources": {"cpu": "100m", "memory": "256Mi"}, "grace_period": "5s", **spec}
    document = {"kind": "Service", "metadata": {"name": name}, "spec": spec}
    (folder / "service.yaml").write_text(yaml.safe_dump(document))
    mw.ok("service", "create", "-f", "service.yaml", "--wait", cwd=folder)
    return str(json.loads(mw.ok("service", "get", name, "--json"))["metadata"]["uid"])


def replicas(client: Client, name: str) -> dict[str, bool]:
    """Key of each replica, and whether it is ready."""
    return {one["key"]: one["ready"] for one in client.get("Service", name)["status"]["replicas"]}


def whole(client: Client, name: str, before: set[str]) -> bool:
    """As many are ready as before, one of them another."""
    now = replicas(client, name)
    return all(now.values()) and len(now) == len(before) and len(before & set(now)) == len(before) - 1


async def burst(url: str, token: str, count: int, first: Callable[[], None]) -> Counter[int]:
    """Statuses of ``count`` requests at once that take half a second each; ``first`` is called at the first answer."""
    async with httpx.AsyncClient(trust_env=False, timeout=60.0, headers={"Authorization": token}) as http:
        calls = [asyncio.ensure_future(http.post(url, json={"number": n, "takes": 0.5})) for n in range(count)]
        await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        first()
        return Counter([(await call).status_code for call in calls])


def test_one_of_three_that_is_killed_loses_what_it_was_executing(mw: Mw, client: Client, tmp_path: Path) -> None:
    """At the concurrency that a class has when nobody says another one, and with more requests than places."""
    uid = create(mw, tmp_path, "steady", replicas=3)
    before = set(replicas(client, "steady"))
    url, token = client.service_endpoint("steady"), client.service_token("steady")
    with constant(url, token) as calls:
        poll(lambda: len(calls.seen.replicas) == 3)
        calls.last(0.5)
        servers = [line for line in leftovers.processes(uid) if "modelworks.server" in line]
        victim = int(servers[0].split()[1].rstrip(":"))
        found = asyncio.run(burst(url, token, 12 * PLACES, lambda: os.kill(victim, signal.SIGKILL)))
        poll(lambda: whole(client, "steady", before))
        poll(lambda: len(calls.seen.replicas) == 4)
        calls.last(1)
    assert found.keys() <= {200, 502}, found
    assert len(calls.seen.failed) + found[502] <= PLACES, (str(calls.seen), found)
    assert all("502" in what for _, what in calls.seen.failed), str(calls.seen)
    assert calls.seen.right + len(calls.seen.failed) == calls.seen.sent


def test_one_that_hangs_but_is_healthy_is_taken_out_and_replaced(mw: Mw, client: Client) -> None:
    """After the test above. It is one of three, and gets no more requests than it has places."""
    before = set(replicas(client, "steady"))
    url, token = client.service_endpoint("steady"), client.service_token("steady")
    with constant(url, token) as calls:
        calls.last(2)
        hung = time.time()
        with httpx.Client(trust_env=False, timeout=60.0, headers={"Authorization": token}) as http:
            assert http.post(url, json={"hang": True}).status_code == 502, "it ends with its replica"
        poll(lambda: whole(client, "steady", before))
        (gone,) = before - set(replicas(client, "steady"))
        answered = calls.seen.replicas.copy()
        calls.last(1)
        assert replica_id(gone) not in calls.seen.replicas - answered
    assert len(calls.seen.failed) < PLACES, str(calls.seen)
    assert all("502" in what for _, what in calls.seen.failed), str(calls.seen)
    assert calls.seen.right + len(calls.seen.failed) == calls.seen.sent
    (told,) = [one for one in client.events("Service", "steady")[0] if "said nothing" in one["message"]]
    assert datetime.fromisoformat(told["at"]).timestamp() - hung < 10
    mw.ok("service", "delete", "steady")


def test_fifty_first_requests_at_a_service_scaled_to_zero(mw: Mw, client: Client, tmp_path: Path) -> None:
    scaling = {"min": 0, "max": 2, "metrics": {"concurrency": 50}, "idle": "1s"}
    create(mw, tmp_path, "asleep", autoscaling={**scaling, "scale_in_stabilization": "0s", "scale_in_cooldown": "0s"})
    url, token = client.service_endpoint("asleep"), client.service_token("asleep")

    async def fifty() -> Counter[int]:
        async with httpx.AsyncClient(trust_env=False, timeout=60.0, headers={"Authorization": token}) as http:
            answers = await asyncio.gather(*(http.post(url, json={"number": number}) for number in range(50)))
        assert {one.json().get("number") for one in answers} == set(range(50)), Counter(one.text for one in answers)
        return Counter(one.status_code for one in answers)

    for _ in range(2):
        poll(lambda: client.get("Service", "asleep")["status"]["phase"] == "Idle" and not replicas(client, "asleep"))
        assert asyncio.run(fifty()) == {200: 50}
    mw.ok("service", "delete", "asleep")
