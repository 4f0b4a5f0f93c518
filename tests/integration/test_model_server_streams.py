"""Python processors of the model server: event streams, methods with ``async``, classes of the cloud's."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.model_server import serving


def _until(condition: Callable[[], bool]) -> None:
    for _ in range(2000):
        if condition():
            return
        time.sleep(0.005)
    raise AssertionError("it never came")


FILLED = """
import threading
class Filled:
    def initialize(self):
        self.full = threading.Barrier(MANY)
    def process(self, data):
        self.full.wait()
        return data
"""


@pytest.mark.parametrize(("arguments", "many"), [((), 5), (("--threads", "40"), 40)])
def test_a_class_takes_as_many_at_once_as_it_has_threads(tmp_path: Path, arguments: tuple[str, ...], many: int) -> None:
    (tmp_path / "p.py").write_text(FILLED.replace("MANY", str(many)))
    command = ("--processor", "python", "--entry", "p.py:Filled", *arguments)
    with serving(*command, cwd=tmp_path) as server, ThreadPoolExecutor(many) as callers:
        answers = callers.map(lambda number: server.client.post("/", json=number).json(), range(many))
        assert list(answers) == list(range(many))


STREAMS = """
import asyncio, os, time
class Streams:
    def process(self, data):
        if data.get("generator"):
            return (item for item in ("one", {"two": 2}, b"event: own\\ndata: 3\\n\\n", "a\\nb"))
        return {"plain": data}
    def stream(self, data):
        if data.get("early"):
            raise ValueError("too early")
        return self.endless() if data.get("endless") else self.forever() if data.get("slow") else self.some(data)
    def some(self, data):
        yield "first"
        if data.get("late"):
            raise ValueError("too late")
        yield "second"
    def endless(self):
        made = 0
        try:
            while True:
                made += 1
                open("made", "w").write(str(made))
                yield "x" * 10_000
        finally:
            open("closed", "w").close()
    async def forever(self):
        try:
            yield "begun"
            await asyncio.sleep(3600)
        finally:
            open("closed", "w").close()
"""


@pytest.fixture
def streams(tmp_path: Path) -> Path:
    (tmp_path / "processor.py").write_text(STREAMS)
    return tmp_path


def test_events(streams: Path) -> None:
    arguments = ("--processor", "python", "--entry", "processor.py:Streams")
    with serving(*arguments, cwd=streams) as server:
        client, asked = server.client, {"Accept": "text/event-stream"}
        with client.stream("POST", "/", json={"stream": True}) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            assert answer.headers["transfer-encoding"] == "chunked"
            assert answer.read() == b"data: first\n\ndata: second\n\n"
        assert client.post("/", json={}).json() == {"plain": {}}
        early = client.post("/", json={"early": 1}, headers=asked)
        assert (early.status_code, early.json()["detail"]) == (500, "ValueError: too early")
        late = client.post("/", json={"late": 1}, headers=asked).text
        assert late.startswith("data: first\n\nevent: error\ndata: {")
        assert "ValueError: too late" in late
        # The same connection goes on.
        assert client.post("/", json={"n": 1}).json() == {"plain": {"n": 1}}


def test_a_generator_of_process_is_a_stream_only_for_who_asks(tmp_path: Path) -> None:
    (tmp_path / "processor.py").write_text(STREAMS.replace("def stream(", "def other("))
    with serving("--processor", "python", "--entry", "processor.py:Streams", cwd=tmp_path) as server:
        asked = server.client.post("/", json={"generator": True}, headers={"Accept": "text/event-stream"})
        expected = 'data: one\n\ndata: {"two":2}\n\nevent: own\ndata: 3\n\ndata: a\ndata: b\n\n'
        assert asked.text == expected
    (tmp_path / "processor.py").write_text(
        "class Some:\n    def process(self, data):\n        yield 1\n        yield 2\n"
    )
    with serving("--processor", "python", "--entry", "processor.py:Some", cwd=tmp_path) as server:
        assert server.client.post("/", json={}).json() == [1, 2]


@pytest.mark.parametrize("kind", ["endless", "slow"])
def test_a_stream_ends_with_its_client_and_does_not_run_ahead(streams: Path, kind: str) -> None:
    arguments = ("--processor", "python", "--entry", "processor.py:Streams")
    with serving(*arguments, cwd=streams, MW_WORKER_THREADS="1") as server:
        with server.client.stream("POST", "/", json={"stream": True, kind: True}) as answer:
            pieces = answer.iter_raw()
            first = next(pieces)
            assert first.startswith(b"data: ")
            if kind == "endless":
                # Nobody reads: what fits between generator and client is made, and no more.
                seen = -1
                while (made := int((streams / "made").read_text() or 0)) != seen:
                    seen = made
                    threading.Event().wait(0.3)
                assert made < 1000
            assert server.metric("mw_requests_in_flight") == 1
        _until((streams / "closed").exists)
        # Its thread is free again.
        assert server.client.post("/", json={"n": 1}).json() == {"plain": {"n": 1}}


ALLSPARK = """
import json
import allspark

class MyProcessor(allspark.BaseProcessor):
    def initialize(self):
        allspark.default_properties().put("rpc.keepalive", "10000")
        self.weight = 2
    def pre_process(self, data):
        return json.loads(data)
    def post_process(self, data):
        return bytes(json.dumps(data), encoding="utf8")
    def process(self, data):
        return self.post_process(self.pre_process(data) * self.weight), 201

if __name__ == "__main__":
    MyProcessor(worker_threads=3).run()
"""


def test_a_class_of_the_cloud(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(ALLSPARK)
    with serving("--processor", "python", "--entry", "app.py:MyProcessor", cwd=tmp_path) as server:
        answer = server.client.post("/", json=21)
        assert (answer.status_code, answer.json()) == (201, 42)
        server.process.send_signal(signal.SIGTERM)
        said = server.process.communicate(timeout=20)[0].decode()
        assert re.search(r"^serving MyProcessor with 5 threads, .*; started in \d+\.\d\d s$", said, re.M)


def test_a_class_of_the_cloud_run_as_a_program(tmp_path: Path) -> None:
    import modelworks.server  # noqa: PLC0415

    (tmp_path / "app.py").write_text(ALLSPARK)
    package = Path(modelworks.server.__file__).parent
    path = f"{package.parents[1]}:{package / 'shims'}"
    with serving("app.py", cwd=tmp_path, tcp=True, PYTHONPATH=path) as server:
        assert server.client.post("/", json=4).json() == 8
        server.process.send_signal(signal.SIGTERM)
        assert b"with 3 threads" in server.process.communicate(timeout=20)[0]


def test_async_methods(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(
        "import asyncio\nclass A:\n    async def initialize(self):\n        self.loop = asyncio.get_running_loop()\n"
        "    async def process(self, data):\n        await asyncio.sleep(0)\n"
        "        return {'same': asyncio.get_running_loop() is self.loop}\n"
    )
    with serving("--processor", "python", "--entry", "app.py:A", cwd=tmp_path) as server:
        assert server.client.post("/", json={}).json() == {"same": True}
