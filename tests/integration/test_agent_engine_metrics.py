"""The agent asks engines for their metrics: the platform's own server, and servers that misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.model_server import serving

from modelworks.agent import scrape
from modelworks.agent.scrape import EngineMetrics

PROCESSOR = "class Echo:\n    def initialize(self): pass\n    def process(self, data): return data\n"
GOOD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nmw_queue_depth 3\n"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrape, "PERIOD", 0.02)
    monkeypatch.setattr(scrape, "_SELDOM", 0.05)
    monkeypatch.setattr(scrape, "_TIMEOUT", 0.3)


@asynccontextmanager
async def watched(socket: Path, ready: Callable[[], bool] = lambda: True) -> AsyncIterator[EngineMetrics]:
    engine = EngineMetrics(socket, ready)
    task = asyncio.create_task(engine.watch("/metrics"))
    try:
        yield engine
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def test_the_platforms_own_server(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text(PROCESSOR)
    with serving("--processor", "python", "--entry", "code.py:Echo", cwd=tmp_path) as server:

        async def main() -> None:
            ready = True
            async with watched(Path(server.address), lambda: ready) as engine:
                await until(lambda: engine.values == {"running": 0.0, "waiting": 0.0})
                await asyncio.to_thread(server.client.post, "/", json={})
                await until(lambda: engine.values.get("batch_mean") == 1.0)
                ready = False
                await until(lambda: engine.values == {})

        asyncio.run(main())


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    try:
        while True:
            writer.write(b"# much\n" * 10_000)
            await writer.drain()
    except ConnectionError:
        writer.close()


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


def saying(answer: bytes) -> Handler:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        writer.close()

    return handle


@pytest.mark.parametrize(
    "wrong",
    [endless, silent, saying(b""), saying(b"\xff\n"), saying(b"HTTP/1.1 404 Not Found\r\n\r\nmw_queue_depth 9\n")],
)
def test_what_misbehaves_is_left_alone_and_heard_again(tmp_path: Path, wrong: Handler) -> None:
    async def main() -> None:
        asked, handler = 0, saying(GOOD)

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal asked
            asked += 1
            await reader.readuntil(b"\r\n\r\n")
            await handler(reader, writer)

        server = await asyncio.start_unix_server(handle, tmp_path / "r.sock")
        async with server, watched(tmp_path / "r.sock") as engine:
            await until(lambda: engine.values == {"waiting": 3.0})
            handler, before = wrong, asked
            await until(lambda: asked > before + 4 and engine.values == {})
            handler = saying(GOOD)
            await until(lambda: engine.values == {"waiting": 3.0})

    asyncio.run(main())
