"""Streams through the gateway with clients that are not ours, what is counted of them, and hints on large inputs."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from pathlib import Path

import httpx
import pytest
import websockets
from tests.gateway_lab import AUTH, TOKEN, Lab, Replica, header
from tests.integration.test_gateway_proxy import run

from modelworks.gateway.events import Events
from modelworks.gateway.metrics import RevisionMetrics

HEADERS = {"Authorization": f"Bearer {TOKEN}"}
SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def test_each_event_passes_before_the_next_is_made(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        seen = asyncio.Queue[int]()

        async def events(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await replica.read_head(reader)
            writer.write(SSE)
            for i in range(5):
                writer.write(chunk(b'data: {"n": %d}\n\n' % i))
                assert await seen.get() == i
            writer.write(chunk(b"data: [DONE]\n\n") + chunk(b""))
            await reader.read()

        lab.route(await lab.replica(events))
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{lab.port}", headers=HEADERS) as client:
            got = []
            async with client.stream("GET", "/api/predict/digits/v1/completions") as answer:
                assert answer.headers["content-type"].startswith("text/event-stream")
                async for line in answer.aiter_lines():
                    if line.startswith("data: {"):
                        got.append(json.loads(line[6:])["n"])
                        seen.put_nowait(got[-1])
        assert got == [0, 1, 2, 3, 4]
        text = lab.gateway.metrics()
        label = 'service="digits",revision="r1"'
        assert f"mw_gateway_events_total{{{label}}} 5\n" in text
        assert f"mw_gateway_first_event_seconds_count{{{label}}} 1\n" in text
        assert re.search(rf"mw_gateway_event_seconds_total{{{label}}} 0\.\d+", text)

    run(tmp_path, body)


def test_a_client_that_leaves_ends_the_stream_at_the_replica(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        async def endless(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await replica.read_head(reader)
            writer.write(SSE + chunk(b"data: 0\n\n"))
            await reader.read()  # until the gateway closes

        replica = await lab.replica(endless)
        lab.route(replica)
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{lab.port}", headers=HEADERS) as client,
            client.stream("GET", "/api/predict/digits") as answer,
        ):
            assert await anext(answer.aiter_lines()) == "data: 0"
        await replica.until(lambda: replica.closed == 1)

    run(tmp_path, body)


def test_a_websocket_passes_both_ways_and_closes(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        async def echo(socket: websockets.ServerConnection) -> None:
            async for message in socket:
                await socket.send(message)

        path = tmp_path / "ws.sock"
        async with websockets.unix_serve(echo, str(path)):
            lab.route(Replica(path))
            url = f"ws://127.0.0.1:{lab.port}/api/predict/digits/stream"
            async with websockets.connect(url, additional_headers=HEADERS) as socket:
                for message in ("text", b"bytes" * 50_000, "é" * 1000):
                    await socket.send(message)
                    assert await socket.recv() == message
            assert socket.close_code == 1000
            with pytest.raises(websockets.InvalidStatus) as refused:
                await websockets.connect(url)
            assert refused.value.response.status_code == 401

    run(tmp_path, body)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_events_are_counted_wherever_they_are_cut(size: int, end: bytes) -> None:
    lines = [b": a comment", b"", b"data: 1", b"", b"event: x", b"data: 2", b"data: more", b"", b"id: 3", b"",
             b"data: 3", b"", b"data: [DONE]", b"", b""]  # fmt: skip
    text = end.join(lines) + b": so that the last line has ended" + end
    counts = RevisionMetrics()
    events = Events(counts, 1.0)
    for i in range(0, len(text), size):
        events.add(text[i : i + size], 1.5)
    assert (counts.events, counts.first_event.seconds) == (3, 0.5)


LARGE = json.dumps({"image": base64.b64encode(bytes(range(256)) * 2000).decode()}).encode()


@pytest.mark.parametrize(
    ("data", "kind", "hinted"),
    [
        (LARGE, "application/json", True),
        (LARGE, "application/octet-stream", False),
        (LARGE[:200_000], "application/json", False),
        (json.dumps([[i / 7 for i in range(64)] for _ in range(500)]).encode(), "application/json", False),
        (json.dumps(["some words of prose " * 40] * 500).encode(), "application/json", False),
    ],
    ids=["base64", "no-json", "small", "numbers", "prose"],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_large_base64_in_json_gets_a_hint(tmp_path: Path, data: bytes, kind: str, hinted: bool, chunked: bool) -> None:
    async def body(lab: Lab) -> None:
        lab.route(await lab.replica())
        client = await lab.client()
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(data)}"
        await client.send(
            f"POST /api/predict/digits HTTP/1.1\r\nHost: h\r\n{AUTH}Content-Type: {kind}\r\n{framing}\r\n\r\n"
        )
        await client.send(chunk(data) + b"0\r\n\r\n" if chunked else data)
        status, head, answer = await client.answer()
        assert (status, answer) == (200, data)
        assert ("URI" in (header(head, "x-mw-hint") or "")) == hinted

    run(tmp_path, body)
