"""A backlog that no replica has the memory for: the fleet comes back with smaller batches, and works it off."""

from __future__ import annotations

import asyncio
import json
import textwrap
from collections import Counter
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from tests.agents import poll
from tests.cli_platform import Mw

from modelworks.sdk.client import Client

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("releases")]
REPLICAS, BATCH, BACKLOG = 3, 16, 400

# Sixteen rows at once are more than a replica may have, eight are not. Its own limit on a batch stands in each answer.
GREEDY = """
    import os, time
    import numpy as np
    class Greedy:
        def process_batch(self, items):
            held = [np.ones(12 << 20, np.uint8) for item in items if item.get("large")]
            time.sleep(0.02)
            return [{"number": item["number"], "rows": len(items), "limit": os.environ["MW_MAX_BATCH_SIZE"]}
                    for item in items]
    """


class Night:
    """Callers that do as they are told: what is refused is sent again after ``Retry-After``, what is lost at once."""

    def __init__(self, url: str, token: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname, parts.port
        self._head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: {token}\r\n"
        self.answers: dict[int, dict[str, Any]] = {}
        self.said: Counter[int] = Counter()

    async def backlog(self, numbers: range, *, large: bool) -> None:
        """All of them at once, until each is answered."""
        async with asyncio.timeout(240), asyncio.TaskGroup() as tasks:
            for number in numbers:
                tasks.create_task(self._call(number, large))

    async def _call(self, number: int, large: bool) -> None:
        while number not in self.answers:
            status, headers, body = await self._post(json.dumps({"number": number, "large": large}))
            self.said[status] += 1
            if status == 200:
                self.answers[number] = json.loads(body)
            elif status != 502:
                assert status in (429, 503), body
                await asyncio.sleep(int(headers["retry-after"]))

    async def _post(self, body: str) -> tuple[int, Message, bytes]:
        """Over a connection of its own: clients' pools are slow with hundreds of them."""
        reader, writer = await asyncio.open_connection(self._host, self._port)
        lines = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        writer.write(f"{self._head}{lines}{body}".encode())
        status = await reader.readline()
        headers = message_from_bytes(await reader.readuntil(b"\r\n\r\n"))
        answer = await reader.readexactly(int(headers["content-length"]))
        writer.close()
        await writer.wait_closed()
        return int(status.split()[1]), headers, answer


def test_a_backlog_that_is_too_much_for_each_replica_is_worked_off(
    mw: Mw, client: Client, tmp_path: Path, record_property: Any
) -> None:
    (tmp_path / "greedy.py").write_text(textwrap.dedent(GREEDY))
    # The delay lets batches be full also where the machine has other things to do.
    spec = {
        "processor": "python", "entry": "greedy.py:Greedy", "code": ".", "replicas": REPLICAS, "concurrency": BATCH,
        "batching": {"max_batch_size": BATCH, "max_batch_delay_ms": 200}, "grace_period": "5s",
        "resources": {"cpu": "300m", "memory": "192Mi"}, "queue": {"size": BACKLOG // 2, "timeout": "60s"},
        "hang_timeout": "30s",
    }  # fmt: skip
    document = {"kind": "Service", "metadata": {"name": "greedy"}, "spec": spec}
    (tmp_path / "service.yaml").write_text(yaml.safe_dump(document))
    mw.ok("service", "create", "-f", "service.yaml", "--wait", cwd=tmp_path)
    night = Night(client.service_endpoint("greedy"), client.service_token("greedy"))
    asyncio.run(night.backlog(range(BACKLOG), large=True))
    record_property("said", str(night.said))
    slots = client.get("Service", "greedy")["status"]["slots"]
    deaths = sum(slot["incarnation"] for slot in slots)
    assert max(slot["incarnation"] for slot in slots) <= 1, "who comes back with half the batch stays"
    assert {slot.get("halvings") for slot in slots if slot["incarnation"]} == {1}, slots
    assert night.said[502] <= BATCH * deaths, night.said
    assert {one["limit"] for one in night.answers.values()} >= {str(BATCH // 2)}
    assert max(one["rows"] for one in night.answers.values() if one["limit"] == str(BATCH // 2)) <= BATCH // 2

    poll(lambda: client.get("Service", "greedy")["status"]["ready"] == REPLICAS)
    night.said.clear()
    asyncio.run(night.backlog(range(BACKLOG, BACKLOG + 100), large=False))
    assert night.said == {200: 100}
    document = client.get("Service", "greedy")
    assert document["status"]["phase"] == "Running"
    assert "ran out of memory and get" in document["status"]["message"]
    mw.ok("service", "delete", "greedy")
