"""Requests that wait: for a first replica, for their turn in their own time, and what is told of it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.gateway_lab import AUTH, QUICK, Lab, Replica, header, request
from tests.integration.test_gateway_limits import Gate, posting, until
from tests.integration.test_gateway_proxy import run


def timeout_of(milliseconds: int | str) -> str:
    return f"{AUTH}X-Mw-Timeout-Ms: {milliseconds}\r\n"


@pytest.mark.parametrize("state", ["idle", "starting", "ready"])
def test_requests_wait_for_the_first_replica(tmp_path: Path, state: str) -> None:
    async def body(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(state=state, concurrency=1, queue_size=3)
        clients = await posting(lab, 3)
        status, head, data = await (await lab.client()).post()  # the queue is bounded there, too
        assert (status, json.loads(data)["code"]) == (429, "limit-exceeded")
        assert int(header(head, "retry-after") or 0) >= 1
        lab.route(replica, concurrency=1)
        answers = [await client.answer() for client in clients]
        assert [answer[::2] for answer in answers] == [(200, b"x")] * 3
        assert all(int(header(head, "x-mw-queue-ms") or 0) >= 0 for _, head, _ in answers)

    run(tmp_path, body)


def test_a_held_request_is_not_held_for_ever(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.route(state="starting", message="its environment is built", hold=0.2)
        status, _, data = await (await lab.client()).post()
        assert (status, json.loads(data)["code"]) == (503, "unavailable")
        assert "its environment is built" in json.loads(data)["detail"]
        lab.route(state="idle", hold=60.0)
        status, _, data = await (await lab.client()).post(extra=timeout_of(100))
        assert status == 503
        (client,) = await posting(lab, 1)
        lab.route(state="failed", message="the model is missing")
        status, _, data = await client.answer()
        assert (status, "the model is missing" in json.loads(data)["detail"]) == (503, True)

    run(tmp_path, body)


def test_a_request_that_nobody_can_answer_in_its_time_is_refused_when_that_is_seen(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        gate = Gate()
        replica = await lab.replica(gate)
        lab.route(replica, concurrency=1, queue_timeout=30.0, queue_size=100)
        await posting(lab, 1)
        client = await lab.client()
        began = time.monotonic()
        status, head, data = await client.post(extra=timeout_of(150))
        assert time.monotonic() - began >= 0.07
        assert (status, json.loads(data)["code"]) == (429, "limit-exceeded")
        assert int(header(head, "retry-after") or 0) >= 1
        status, _, _ = await client.post(extra=timeout_of(0))
        assert status == 429
        assert len(replica.heads) == 1  # none of them was sent
        assert lab.gateway.services[b"digits"].admission.queued == 0

    # Its moment, and not the next round of a sweep that would come too late for this test.
    run(tmp_path, body, replace(QUICK, sweep=60.0))


def test_the_rest_of_the_time_is_passed_on(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        gate = Gate()
        replica = await lab.replica(gate)
        lab.route(replica, concurrency=1)
        (first,) = await posting(lab, 1)
        waiting = await lab.client()
        await waiting.send(request(extra=timeout_of(60_000)))
        await until(lambda: lab.gateway.services[b"digits"].admission.queued == 1)
        await asyncio.sleep(0.05)  # some of its time is used up in the queue
        gate.open.set()
        assert (await first.answer())[0] == 200
        assert (await waiting.answer())[0] == 200
        assert header(replica.heads[0], "x-mw-timeout-ms") is None
        assert 0 < int(header(replica.heads[1], "x-mw-timeout-ms") or 0) <= 59_950
        # The same header on a connection that has sent such a request before.
        await waiting.post(extra=timeout_of(60_000))
        await waiting.post(extra=timeout_of(60_000))
        assert 59_000 < int(header(replica.heads[-1], "x-mw-timeout-ms") or 0) <= 60_000

    run(tmp_path, body)


def test_a_request_that_goes_again_says_its_time_once(tmp_path: Path) -> None:
    async def once(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one request of each connection, and closes it with the second one."""
        for _ in range(2):
            head = await replica.read_head(reader)
            if replica.connections > 1 or len(replica.heads) == 1:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            else:
                return
            assert head

    async def body(lab: Lab) -> None:
        replica = await lab.replica(once)
        lab.route(replica)
        client = await lab.client()
        for _ in range(2):
            await client.send(f"GET /api/predict/digits HTTP/1.1\r\nHost: h\r\n{timeout_of(60_000)}\r\n")
            assert (await client.answer())[0] == 200
        assert replica.connections == 2
        assert [head.lower().count(b"x-mw-timeout-ms") for head in replica.heads] == [1, 1, 1]

    run(tmp_path, body)


@pytest.mark.parametrize("value", ["soon", "-1", "1.5", "1000\r\nX-Mw-Timeout-Ms: 5", ""])
def test_a_time_that_is_none(tmp_path: Path, value: str) -> None:
    async def body(lab: Lab) -> None:
        lab.route(await lab.replica())
        status, _, data = await (await lab.client()).post(extra=timeout_of(value))
        assert status == 400
        assert "X-Mw-Timeout-Ms" in json.loads(data)["detail"]

    run(tmp_path, body)


def test_an_answer_that_is_not_wanted_any_more_frees_its_replica(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        replica = await lab.replica(Gate())
        lab.route(replica, concurrency=1)
        status, _, data = await (await lab.client()).post(extra=timeout_of(100))
        assert (status, json.loads(data)["code"]) == (408, "timeout")
        await replica.until(lambda: replica.closed == 1)
        assert lab.gateway.services[b"digits"].admission.in_flight == 0

    run(tmp_path, body)


def test_so_many_requests_a_second(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica, rate_limit=0.5)
        client = await lab.client()
        answers = [await client.post() for _ in range(4)]
        assert [answer[0] for answer in answers] == [200, 429, 429, 429]
        assert "0.5 requests a second" in json.loads(answers[1][2])["detail"]
        assert header(answers[1][1], "retry-after") == "2"
        assert len(replica.heads) == 1
        lab.route(replica)
        assert (await client.post())[0] == 200

    run(tmp_path, body)


def test_so_many_requests_at_once_over_all_replicas(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        gate = Gate()
        lab.route(await lab.replica(gate), await lab.replica(gate), concurrency=4, concurrency_limit=3, queue_size=5)
        clients = await posting(lab, 8)
        await until(lambda: gate.inside == 3)
        assert lab.gateway.services[b"digits"].admission.queued == 5
        gate.open.set()
        assert [(await client.answer())[0] for client in clients] == [200] * 8
        assert gate.most == 3

    run(tmp_path, body)


def test_what_waits_holds_a_bounded_memory_over_all_services(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        gate = Gate()
        lab.route(await lab.replica(gate), concurrency=1, queue_size=100)
        service = lab.gateway.services[b"digits"]
        (first,) = await posting(lab, 1)
        waiting = []
        for _ in range(5):
            client = await lab.client()
            await client.send(request(b"x" * 40_000))
            waiting.append(client)
        await until(lambda: service.admission.queued == 5 or bool(service.metrics.rejections))
        refused = await lab.client()
        await refused.send(request(b"x" * 40_000))
        await until(lambda: service.metrics.rejections.get("limit-exceeded", 0) >= 1 or service.waiting.tight)
        assert service.waiting.bytes <= 2 * service.waiting.most
        gate.open.set()
        statuses = [(await client.answer())[0] for client in (first, *waiting, refused)]
        assert statuses.count(200) >= 3
        assert set(statuses) <= {200, 429}
        await until(lambda: service.waiting.bytes == 0)

    run(tmp_path, body, replace(QUICK, waiting=100_000))


def test_an_asynchronous_service_is_the_couriers(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.route(state="idle", tasks=True, uid="uid-of-it")
        client = await lab.client()
        status, _, data = await client.post()
        assert (status, json.loads(data)["code"]) == (503, "unavailable")
        courier = await lab.replica(name="courier.sock")
        for _ in range(3):
            status, head, data = await client.post(b"{}", "/api/predict/digits/sink?requestId=1")
            assert (status, data) == (200, b"{}")
            assert header(head, "x-mw-replica") is None
        assert courier.heads[-1].startswith(b"POST /sink?requestId=1 HTTP/1.1\r\n")
        assert header(courier.heads[-1], "x-mw-service-uid") == "uid-of-it"
        assert header(courier.heads[-1], "authorization") is None
        assert (await client.post(extra=AUTH + "X-Mw-Service-Uid: another\r\n"))[0] == 200
        assert courier.heads[-1].lower().count(b"x-mw-service-uid") == 1
        assert (await client.post(extra=""))[0] == 401
        assert len(courier.heads) == 4

    run(tmp_path, body)


def test_a_replica_that_is_away_is_waited_for_as_long_as_the_request_may_wait(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica, queue_timeout=0.5)
        await replica.stop()
        status, _, data = await (await lab.client()).post()
        assert (status, json.loads(data)["code"]) == (503, "unavailable")
        assert "accepts connections" in json.loads(data)["detail"]

    run(tmp_path, body)
