"""The process of a replica: load the model, warm it up, listen, and drain at SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import uvloop

from modelworks.heap import keep_freed
from modelworks.server.app import App
from modelworks.server.batching import Batcher
from modelworks.server.dispatch import Dispatcher
from modelworks.server.load import PROCESSORS, load
from modelworks.server.processors.base import Processor
from modelworks.server.protocol import Connection
from modelworks.server.statistics import Statistics
from modelworks.server.warmup import WarmUpFailed, warm_up

MAX_BODY = 100 << 20
_NOT_BATCHED = "batching has no effect: each request is computed alone; a class takes several by process_batch"
_QUEUE_SIZE = 256
_BACKLOG = 256
# Seconds for what is still computed when the last client has gone.
_PATIENCE = 2.0
# Seconds a thread may keep the interpreter while another waits for it. Those that compute hardly hold it, and the loop
# gives each of them its turn in time.
_SWITCH = 0.0005


@dataclass(frozen=True)
class Limits:
    """Of batches and queue. ``rows`` None: every request alone. ``delay`` in seconds, ``body`` in bytes."""

    rows: int | None = None
    delay: float = 0.0
    queue: int = _QUEUE_SIZE
    threads: int | None = None
    body: int = MAX_BODY

    @classmethod
    def of(cls, rows: int | None, delay_ms: float | None) -> Limits:
        """Of the command line and the environment. Of two limits of a batch the smaller holds: the platform lowers the
        variable after a replica ran out of memory. Raises ValueError naming what is no number."""
        given = [found for found in (rows, _number("MW_MAX_BATCH_SIZE")) if found is not None]
        delay = delay_ms if delay_ms is not None else _decimal("MW_MAX_BATCH_DELAY_MS")
        threads, queue, body = _number("MW_WORKER_THREADS"), _number("MW_QUEUE_SIZE"), _number("MW_MAX_BODY")
        for name, value in (("the batch size", min(given, default=1)), ("MW_WORKER_THREADS", threads or 1)):
            if value < 1:
                raise ValueError(f"{name} is at least 1, not {value}")
        return cls(
            rows=min(given) if given else None,
            delay=max(delay or 0.0, 0.0) / 1000,
            queue=queue if queue is not None else _QUEUE_SIZE,
            threads=threads,
            body=body if body is not None else MAX_BODY,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """``python -m modelworks.server``: 0 after a drain, 1 when the model cannot be loaded or warmed up."""
    arguments = _parser().parse_args(argv)
    try:
        limits = Limits.of(arguments.max_batch_size, arguments.max_batch_delay_ms)
        processor = load(arguments.processor, arguments.model, arguments.entry, arguments.threads)
    except Exception as error:  # what a model or a user's code raises while it loads is the replica's last word
        if not isinstance(error, FileNotFoundError | ImportError | ValueError):
            traceback.print_exc()
        return _failed(f"cannot load the {arguments.processor} processor: {error}")
    return _run(processor, limits, arguments.warm_up)


def serve_processor(processor: Processor) -> None:
    """Serve a processor that was made by a program of its own, until SIGTERM; ends the program when it cannot."""
    status = _run(processor, Limits.of(None, None), None)
    if status:
        sys.exit(status)


def _run(processor: Processor, limits: Limits, path: Path | None) -> int:
    sys.setswitchinterval(_SWITCH)
    keep_freed()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(serve(processor, limits, path))
        except WarmUpFailed as error:
            return _failed(str(error))
    return 0


async def serve(processor: Processor, limits: Limits, path: Path | None = None) -> None:
    """Listen on ``$MW_SOCKET``, else on ``127.0.0.1:$PORT``, until SIGTERM; then answer what has begun, and return."""
    loop = asyncio.get_running_loop()
    rows, words = _rows(processor, limits)
    threads = limits.threads or processor.threads
    lanes = processor.lanes if limits.threads is None else 1
    statistics = Statistics()
    dispatcher = Dispatcher(
        loop, processor, Batcher(rows, limits.delay), statistics, threads=threads, queue_size=limits.queue, lanes=lanes
    )
    vain = processor.max_rows == 1 and limits.rows is not None and limits.rows > 1
    app = App(loop, processor, dispatcher, statistics, limits.body, _NOT_BATCHED if vain else "")
    # Nothing listens yet: whoever asks whether the replica is ready finds nobody.
    done = warm_up(processor, rows, path, dispatcher.learn)
    if done:
        print(f"warmed up: {'; '.join(done)}", flush=True)  # noqa: T201
    connections: set[Connection] = set()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def connect() -> Connection:
        return Connection(app, connections)

    socket = os.environ.get("MW_SOCKET")
    if socket:
        Path(socket).unlink(missing_ok=True)
        server = await loop.create_unix_server(connect, socket, backlog=_BACKLOG)
    else:
        server = await loop.create_server(connect, "127.0.0.1", int(os.environ.get("PORT", "8000")), backlog=_BACKLOG)
    count = f"{threads} thread{'s' * (threads != 1)}" + (f" or {lanes} calls side by side" if lanes > 1 else "")
    print(f"serving {processor.name} with {count}, {words}; started in {_age():.2f} s", flush=True)  # noqa: T201
    await stop.wait()
    app.draining = True
    server.close()
    while connections:
        for connection in tuple(connections):
            connection.close_when_idle()
        await asyncio.sleep(0.02)
    if not app.close(_PATIENCE):
        # Nobody waits for what a thread still computes, and an interpreter that ends beneath it would abort.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _rows(processor: Processor, limits: Limits) -> tuple[int | None, str]:
    """How many rows a batch may hold here, and that in words."""
    most = processor.max_rows
    if limits.rows is None:
        return None, "each request alone"
    if most == 1:
        return None, "each request alone: it cannot be batched"
    rows = limits.rows if most is None else min(limits.rows, most)
    return rows, f"batches of up to {rows} rows" + (f" after {limits.delay * 1000:g} ms" if limits.delay else "")


def _age() -> float:
    """Seconds since this process began, as the kernel counts them (in hundredths): imports and all."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:
        began = int(stat.read().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def _failed(words: str) -> int:
    print(f"error: {words}", file=sys.stderr, flush=True)  # noqa: T201
    return 1


def _number(name: str) -> int | None:
    given = os.environ.get(name)
    if not given:
        return None
    if not given.isdigit():
        raise ValueError(f"{name} is a whole number, not {given!r}")
    return int(given)


def _decimal(name: str) -> float | None:
    given = os.environ.get(name)
    try:
        return float(given) if given else None
    except ValueError:
        raise ValueError(f"{name} is a number, not {given!r}") from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m modelworks.server", description="Serve a model over HTTP.")
    parser.add_argument("--processor", choices=PROCESSORS, required=True)
    parser.add_argument("--model", type=Path, default=os.environ.get("MW_MODEL_DIR"), help="the model's directory")
    parser.add_argument("--entry", help="python: file.py:Class; else: the model's file")
    parser.add_argument("--threads", type=int, help="python: calls of process() at once; default: 5")
    parser.add_argument("--max-batch-size", type=int, help="rows in one call of the model; default: no batches")
    parser.add_argument("--max-batch-delay-ms", type=float, help="how long a batch waits for more rows; default: 0")
    parser.add_argument("--warm-up", type=Path, default=os.environ.get("MW_WARM_UP"), help="a file or folder of bodies")
    return parser
