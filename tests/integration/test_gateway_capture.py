"""Requests that are captured: what is told of them, and that nothing waits for whoever listens."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.gateway_lab import AUTH, Lab
from tests.integration.test_gateway_proxy import run

from modelworks.gateway.capture import Capture

ALL = {"uri": "s3://bucket/captured/", "percent": 100.0, "max_body": 10}


@asynccontextmanager
async def listener(path: Path) -> AsyncIterator[asyncio.Queue[dict[str, Any]]]:
    records = asyncio.Queue[dict[str, Any]]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            records.put_nowait(json.loads(line))
        writer.close()

    async with await asyncio.start_unix_server(serve, str(path)):
        yield records


async def connected(lab: Lab, path: Path) -> None:
    lab.gateway.capture = Capture(path, asyncio.get_running_loop())
    lab.gateway.capture.ready()
    async with asyncio.timeout(5):
        while lab.gateway.capture._transport is None:
            await asyncio.sleep(0.01)


def test_a_request_and_its_answer_are_told_without_its_secrets(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        async with listener(tmp_path / "courier") as records:
            await connected(lab, tmp_path / "courier")
            lab.route(await lab.replica(), capture=ALL)
            client = await lab.client()
            extra = AUTH + "Cookie: session=secret\r\nX-Request-Id: mine\r\nContent-Type: text/plain\r\n"
            for i in range(3):  # as the parser reads it, and as it is remembered
                assert (await client.post(b"hello %d" % i, "/api/predict/digits/v1?a=b", extra))[0] == 200
                record = await records.get()
                assert record.pop("at") > 1.7e9
                assert record.pop("seconds") >= 0
                assert record.pop("queue_seconds") == 0
                assert record == {
                    "uri": "s3://bucket/captured/", "service": "digits", "uid": "uid-digits", "id": "mine",
                    "method": "POST", "path": "/api/predict/digits/v1?a=b", "status": 200,
                    "replica": "0-0", "revision": "r1",
                    "request": {"type": "text/plain", "encoding": "utf-8", "body": f"hello {i}", "truncated": False},
                    "answer": {"type": "", "encoding": "utf-8", "body": f"hello {i}", "truncated": False},
                }  # fmt: skip
            assert (await client.post(b"\xff" * 30))[0] == 200
            record = await records.get()
            assert record["id"]
            expected = {"type": "", "encoding": "base64", "body": base64.b64encode(b"\xff" * 10).decode()}
            assert record["request"] == record["answer"] == expected | {"truncated": True}
            assert "mw_gateway_captured_total 4" in lab.gateway.metrics()

    run(tmp_path, body)


def test_only_a_part_of_them_is_drawn(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        async with listener(tmp_path / "courier"):
            await connected(lab, tmp_path / "courier")
            lab.route(await lab.replica(), capture=ALL | {"percent": 30.0})
            client = await lab.client()
            for _ in range(400):
                await client.post()
            assert 60 < lab.gateway.capture.sent < 190  # beyond seven standard deviations on both sides

    run(tmp_path, body)


def test_nobody_waits_for_a_listener_that_is_not_there_or_does_not_read(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.gateway.capture = Capture(tmp_path / "nobody", asyncio.get_running_loop())
        lab.route(await lab.replica(), capture=ALL | {"max_body": 900_000})
        client = await lab.client()
        assert (await client.post())[0] == 200
        assert (lab.gateway.capture.sent, lab.gateway.capture.dropped) == (0, 1)
        stop = asyncio.Event()

        async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await stop.wait()
            writer.close()

        async with await asyncio.start_unix_server(deaf, str(tmp_path / "deaf")):
            await connected(lab, tmp_path / "deaf")
            lab.route(await lab.replica(), uid="another", capture=ALL | {"max_body": 900_000})
            for _ in range(10):
                assert (await client.post(b"y" * 900_000))[0] == 200
            assert lab.gateway.capture.dropped > 0
            assert "mw_gateway_capture_dropped_total" in lab.gateway.metrics()
            stop.set()

    run(tmp_path, body)
