"""The gateway between a real client and a real replica: what passes, how, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvloop
from tests.gateway_lab import AUTH, QUICK, Lab, Replica, header, lab, request

from modelworks.gateway.limits import Limits

Body = Callable[[Lab], Awaitable[None]]


def run(folder: Path, body: Body, limits: Limits = QUICK) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), lab(folder, limits) as one:
            await body(one)

    uvloop.run(main())


def test_a_request_passes_and_the_connections_are_kept(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica)
        client = await lab.client()
        for i in range(3):
            status, head, data = await client.post(b"hello %d" % i, "/api/predict/digits/v1/x?q=1")
            assert (status, data) == (200, b"hello %d" % i)
            assert header(head, "x-mw-replica") == "0-0"
            assert header(head, "x-mw-revision") == "r1"
            assert header(head, "x-mw-queue-ms") == "0"
            assert header(head, "server") == "modelworks"
        assert replica.connections == 1
        assert replica.heads[0].startswith(b"POST /v1/x?q=1 HTTP/1.1\r\n")
        await client.post(path="/api/predict/digits")
        await client.post(path="/api/predict/digits?a=/b")
        assert [h.split()[1] for h in replica.heads[-2:]] == [b"/", b"/?a=/b"]

    run(tmp_path, body)


def test_what_is_for_the_gateway_does_not_reach_the_replica(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica)
        extra = AUTH + (
            "X-Mw-Role: admin\r\nX_Mw_Role: admin\r\nX-Forwarded-For: 6.6.6.6\r\nConnection: keep-alive, x-secret\r\n"
            "X-Secret: 1\r\nTE: trailers\r\nProxy-Authorization: p\r\nContent_Length: 9\r\nX-Mine: yes\r\n"
        )
        assert (await (await lab.client()).post(extra=extra))[0] == 200
        head = replica.heads[0].lower()
        for absent in (
            b"admin",
            b"6.6.6.6",
            b"x-secret",
            b"\r\nte:",
            b"proxy-auth",
            b"authorization",
            b"content_length",
        ):
            assert absent not in head
        assert header(head, "x-forwarded-for") == "127.0.0.1"
        assert header(head, "x-forwarded-host") == "h"
        assert header(head, "x-forwarded-proto") == "http"
        assert header(head, "x-mine") == "yes"

    run(tmp_path, body)


@pytest.mark.parametrize(
    ("path", "extra", "status", "code"),
    [
        ("/api/predict/digits", "", 401, "unauthorized"),
        ("/api/predict/digits", "Authorization: Bearer wrong\r\n", 401, "unauthorized"),
        ("/api/predict/digits", "Authorization: a-token\r\n", 200, ""),
        ("/api/predict/nobody", AUTH, 404, "not-found"),
        ("/api/predict/nobody", "", 404, "not-found"),
        ("/api/predict/", AUTH, 404, "not-found"),
        ("/elsewhere", AUTH, 404, "not-found"),
        ("/api/predict", AUTH + "X: y\r\n", 404, "not-found"),
        ("/api/v1/status", AUTH, 503, "unavailable"),
        ("/healthz", "", 200, ""),
    ],
)
def test_doors(tmp_path: Path, path: str, extra: str, status: int, code: str) -> None:
    async def body(lab: Lab) -> None:
        lab.route(await lab.replica())
        client = await lab.client()
        for _ in range(2):  # a refusal keeps the connection
            got, head, data = await client.post(path=path, extra=extra)
            assert got == status
            if code:
                assert header(head, "content-type") == "application/problem+json"
                problem = json.loads(data)
                assert (problem["code"], problem["status"]) == (code, status)
            assert (header(head, "www-authenticate") is not None) == (status == 401)

    run(tmp_path, body)


def test_a_service_is_reached_by_its_host_name(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.route(await lab.replica())
        client = await lab.client()
        await client.send(f"POST /api/predict HTTP/1.1\r\nHost: digits:8700\r\n{AUTH}Content-Length: 2\r\n\r\nhi")
        assert (await client.answer())[::2] == (200, b"hi")

    run(tmp_path, body)


def test_the_controller_gets_everything(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        controller = await lab.replica(name="controller.sock")
        status, _, data = await (await lab.client()).post(
            b"{}", "/api/v1/apply?dry_run=1", "Authorization: Bearer key\r\n"
        )
        assert (status, data) == (200, b"{}")
        assert controller.heads[0].startswith(b"POST /api/v1/apply?dry_run=1 ")
        assert header(controller.heads[0], "authorization") == "Bearer key"

    run(tmp_path, body)


@pytest.mark.parametrize("state", ["starting", "failed", "stopped"])
def test_a_service_that_does_not_serve_says_why(tmp_path: Path, state: str) -> None:
    async def body(lab: Lab) -> None:
        lab.route(state=state, message="the model is missing", hold=0.1)
        status, head, data = await (await lab.client()).post()
        assert status == 503
        assert "the model is missing" in json.loads(data)["detail"]
        assert int(header(head, "retry-after") or 0) > 0

    run(tmp_path, body)


def test_chunks_pass_both_ways_as_they_come(tmp_path: Path) -> None:
    async def handler(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await replica.read_head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while size := int(await reader.readuntil(b"\r\n"), 16):
            data = (await reader.readexactly(size + 2))[:-2]
            writer.write(b"%x\r\n%b\r\n" % (size, data.upper().ljust(size)))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async def body(lab: Lab) -> None:
        lab.route(await lab.replica(handler))
        client = await lab.client()
        await client.send(f"POST /api/predict/digits HTTP/1.1\r\nHost: h\r\n{AUTH}Transfer-Encoding: chunked\r\n\r\n")
        head = await client.head()
        assert header(head, "transfer-encoding") == "chunked"
        for word in (b"one", b"two", b"three"):  # each answer is read before the next part is sent
            await client.send(b"%x;ext=1\r\n%b\r\n" % (len(word), word))
            async with asyncio.timeout(5):
                assert await client.reader.readuntil(b"\r\n") == b"%x\r\n" % len(word)
                assert await client.reader.readexactly(len(word) + 2) == word.upper() + b"\r\n"
        await client.send(b"0\r\nTrailer: x\r\n\r\n")
        assert await client.closed() == b"0\r\n\r\n"

    run(tmp_path, body)


def test_events_are_delivered_one_by_one(tmp_path: Path) -> None:
    go = asyncio.Event()

    async def handler(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await replica.read_head(reader)
        # No length, no chunks: it ends with the connection.
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n")
        await writer.drain()
        await go.wait()
        writer.write(b"data: 2\n\n")
        await writer.drain()

    async def body(lab: Lab) -> None:
        lab.route(await lab.replica(handler))
        client = await lab.client()
        await client.send(f"GET /api/predict/digits/stream HTTP/1.1\r\nHost: h\r\n{AUTH}\r\n")
        await client.head()
        async with asyncio.timeout(5):
            assert await client.reader.readuntil(b"\n\n\r\n") == b"9\r\ndata: 1\n\n\r\n"
            go.set()
            assert await client.reader.readuntil(b"0\r\n\r\n") == b"9\r\ndata: 2\n\n\r\n0\r\n\r\n"
        # HTTP/1.0 knows no chunks: the connection's end is the answer's.
        old = await lab.client()
        await old.send(f"GET /api/predict/digits/stream HTTP/1.0\r\nHost: h\r\n{AUTH}\r\n")
        assert (await old.closed()).endswith(b"\r\n\r\ndata: 1\n\ndata: 2\n\n")

    run(tmp_path, body)


def test_a_web_socket_is_a_tunnel(tmp_path: Path) -> None:
    async def handler(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await replica.read_head(reader)
        assert header(head, "upgrade") == "websocket"
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nhello")
        while data := await reader.read(100):
            writer.write(data[::-1])

    async def body(lab: Lab) -> None:
        replica = await lab.replica(handler)
        lab.route(replica)
        client = await lab.client()
        await client.send(
            f"GET /api/predict/digits/ws HTTP/1.1\r\nHost: h\r\n{AUTH}"
            "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nearly"
        )
        assert (await client.head()).startswith(b"HTTP/1.1 101 ")
        async with asyncio.timeout(5):
            assert await client.reader.readexactly(10) == b"helloylrae"
            await client.send(b"\x81\x00GET / HTTP/1.1\r\n\r\n")
            assert await client.reader.readexactly(20) == b"\x81\x00GET / HTTP/1.1\r\n\r\n"[::-1]
        client.close()
        await replica.until(lambda: replica.closed == 1)

    run(tmp_path, body)


def test_pipelined_requests_are_answered_in_order(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.route(await lab.replica())
        client = await lab.client()
        await client.send(b"".join(request(b"%d" % i) for i in range(50)) + request(path="/none") + request(b"last"))
        for i in range(50):
            assert (await client.answer())[::2] == (200, b"%d" % i)
        assert (await client.answer())[0] == 404
        assert (await client.answer())[2] == b"last"

    run(tmp_path, body)


def test_answers_without_a_body(tmp_path: Path) -> None:
    async def handler(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await replica.read_head(reader)
            if head.startswith(b"HEAD"):
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n")
            elif b" /304" in head:
                writer.write(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 999\r\n\r\n")
            else:
                writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n")

    async def body(lab: Lab) -> None:
        replica = await lab.replica(handler)
        lab.route(replica)
        client = await lab.client()
        for line, status in (("HEAD /200", 200), ("GET /304", 304), ("GET /204", 103), ("HEAD /200", 200)):
            method, path = line.split()
            await client.send(f"{method} /api/predict/digits{path} HTTP/1.1\r\nHost: h\r\n{AUTH}\r\n")
            head = await client.head()
            assert int(head[9:12]) == status
            if status == 103:
                assert (await client.head()).startswith(b"HTTP/1.1 204 ")
        assert replica.connections == 1

    run(tmp_path, body)


def test_continue_is_said_when_a_replica_takes_the_request(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica)
        client = await lab.client()
        expect = AUTH + "Expect: 100-continue\r\n"
        await client.send(request(b"", extra=expect).replace(b"Content-Length: 0", b"Content-Length: 4"))
        assert await client.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await client.send(b"body")
        assert (await client.answer())[::2] == (200, b"body")
        assert header(replica.heads[0], "expect") is None
        # Without the token the body is never asked for.
        await client.send(
            request(b"", extra="Expect: 100-continue\r\n").replace(b"Content-Length: 0", b"Content-Length: 4")
        )
        status, head, _ = await client.answer()
        assert (status, header(head, "connection")) == (401, "close")

    run(tmp_path, body)


def test_large_bodies_pass_through_small_buffers(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica, max_body=30_000_000)
        client = await lab.client()
        data = bytes(range(256)) * 80_000
        sending = asyncio.create_task(client.send(request(data)))
        status, _, got = await client.answer()
        await sending
        assert (status, got == data) == (200, True)

    run(tmp_path, body)


def test_a_body_over_the_limit_is_refused(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.route(await lab.replica(), max_body=1000)
        client = await lab.client()
        await client.send(request(b"x" * 1001))
        assert (await client.answer())[0] == 413
        chunked = await lab.client()
        await chunked.send(f"POST /api/predict/digits HTTP/1.1\r\nHost: h\r\n{AUTH}Transfer-Encoding: chunked\r\n\r\n")
        await chunked.send(b"258\r\n" + b"x" * 600 + b"\r\n")
        await chunked.send(b"258\r\n" + b"x" * 600 + b"\r\n")
        assert (await chunked.answer())[0] == 413

    run(tmp_path, body)


def test_metrics_count_answers_and_refusals(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.route(await lab.replica())
        client = await lab.client()
        await client.post()
        await client.post(extra="")
        text = lab.gateway.metrics()
        assert 'mw_gateway_requests_total{service="digits",revision="r1",status="200"} 1' in text
        assert 'mw_gateway_rejections_total{service="digits",reason="unauthorized"} 1' in text
        assert 'mw_gateway_request_seconds_count{service="digits",revision="r1"} 1' in text
        assert 'mw_gateway_in_flight{service="digits"} 0' in text

    run(tmp_path, body)
