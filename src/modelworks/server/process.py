"""The process of a replica: load the model, listen, and drain at SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import uvloop

from modelworks.server.app import App
from modelworks.server.processors.base import Processor
from modelworks.server.protocol import Connection
from modelworks.server.workers import Workers

MAX_BODY = 100 << 20
_QUEUE_SIZE = 256
_BACKLOG = 256
# As many threads as the cloud's Python processors have by default.
_PYTHON_THREADS = 5


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m modelworks.server``: 0 after a drain, 1 when the model cannot be loaded."""
    arguments = _parser().parse_args(argv)
    try:
        processor = load(arguments.processor, arguments.model, arguments.entry)
    except Exception as error:  # what a model or a user's code raises while it loads is the replica's last word
        if not isinstance(error, FileNotFoundError):
            traceback.print_exc()
        print(f"error: cannot load the {arguments.processor} processor: {error}", file=sys.stderr, flush=True)  # noqa: T201
        return 1
    threads = int(os.environ.get("MW_WORKER_THREADS") or _threads(arguments.processor))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(processor, threads))
    return 0


def load(kind: str, model: Path | None, entry: str | None) -> Processor:
    """The processor, its model loaded. Only the wanted one is imported: an environment holds what it needs."""
    if kind == "onnx":
        from modelworks.server.processors.onnx import OnnxProcessor  # noqa: PLC0415

        if model is None:
            raise ValueError("the processor onnx needs --model")
        return OnnxProcessor(model)
    from modelworks.server.processors.python import PythonProcessor  # noqa: PLC0415

    if entry is None:
        raise ValueError("the processor python needs --entry file.py:Class")
    return PythonProcessor(entry)


async def serve(processor: Processor, threads: int) -> None:
    """Listen on ``$MW_SOCKET``, else on ``127.0.0.1:$PORT``, until SIGTERM; then answer what has begun, and return."""
    loop = asyncio.get_running_loop()
    workers = Workers(loop, threads, int(os.environ.get("MW_QUEUE_SIZE") or _QUEUE_SIZE))
    app = App(processor, workers)
    connections: set[Connection] = set()
    max_body = int(os.environ.get("MW_MAX_BODY") or MAX_BODY)

    def connect() -> Connection:
        return Connection(app, connections, max_body)

    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    path = os.environ.get("MW_SOCKET")
    if path:
        Path(path).unlink(missing_ok=True)
        server = await loop.create_unix_server(connect, path, backlog=_BACKLOG)
    else:
        server = await loop.create_server(connect, "127.0.0.1", int(os.environ.get("PORT", "8000")), backlog=_BACKLOG)
    print(f"serving {processor.name} with {threads} threads", flush=True)  # noqa: T201
    await stop.wait()
    app.draining = True
    server.close()
    while connections:
        for connection in tuple(connections):
            connection.close_when_idle()
        await asyncio.sleep(0.02)
    workers.close()


def _threads(kind: str) -> int:
    return len(os.sched_getaffinity(0)) if kind == "onnx" else _PYTHON_THREADS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m modelworks.server", description="Serve a model over HTTP.")
    parser.add_argument("--processor", choices=("onnx", "python"), required=True)
    parser.add_argument("--model", type=Path, default=os.environ.get("MW_MODEL_DIR"), help="the model's directory")
    parser.add_argument("--entry", help="python: file.py:Class")
    return parser
