"""What a replica computes before it says that it is ready."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from modelworks.server.messages import JSON, NPY, Answer, Events, Request
from modelworks.server.problems import Problem
from modelworks.server.processors.base import Processor, Work

# By suffix. The cloud's files have any name and no suffix: they are JSON when they begin like it, else bytes.
_TYPES = {
    ".json": JSON, ".npy": NPY, ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png",
    ".webp": "image/webp", ".bmp": "image/bmp", ".gif": "image/gif", ".txt": "text/plain",
}  # fmt: skip
_BINARY = "application/octet-stream"


class WarmUpFailed(Exception):
    """A request of the warm-up was not answered with 2xx: the replica must not become ready."""


def requests(path: Path) -> list[tuple[str, Request]]:
    """The bodies of a file, or of a directory's files in the order of their names. Raises WarmUpFailed without any."""
    files = [path] if path.is_file() else sorted(found for found in path.rglob("*") if found.is_file())
    if not files:
        raise WarmUpFailed(f"no file to warm up with in {path}")
    found = []
    for file in files:
        body = file.read_bytes()
        name = str(file.relative_to(path)) if file != path else file.name
        kind = _TYPES.get(file.suffix.lower()) or (JSON if body.lstrip()[:1] in (b"{", b"[") else _BINARY)
        headers = {"content-type": kind}
        found.append((name, Request("POST", "/", headers, body)))
    return found


def warm_up(
    processor: Processor, limit: int | None, path: Path | None, learn: Callable[[Work, float, bool], None]
) -> Sequence[str]:
    """Send the files through the processor, and made-up rows where its shapes are known; what was done, in words.

    ``learn`` is told of each made-up call how long it took once warm, and whether it was one on one CPU. Raises
    WarmUpFailed, naming the file.
    """
    done = []
    for name, request in requests(path) if path is not None else ():
        began = time.perf_counter()
        try:
            answer = _ask(processor, request, limit)
        except Problem as problem:
            raise WarmUpFailed(f"the warm-up with {name} failed: {problem.detail}") from problem
        except Exception as error:
            raise WarmUpFailed(f"the warm-up with {name} failed: {type(error).__name__}: {error}") from error
        if answer.status >= 300:
            said = answer.body[:200].decode("utf-8", "replace")
            raise WarmUpFailed(f"the warm-up with {name} was answered with {answer.status}: {said}")
        done.append(f"{name} in {(time.perf_counter() - began) * 1000:.0f} ms")
    for work in processor.examples(limit):
        try:
            seconds = _warm(processor, work, False, learn)
            if processor.lanes > 1:
                _warm(processor, work, True, learn)
        except Exception as error:  # zeros may be what a model cannot take; callers' data may well be
            done.append(f"{work.rows} made-up rows failed ({type(error).__name__}: {error})")
            break
        done.append(f"{work.rows} made-up row{'s' * (work.rows != 1)} in {seconds * 1000:.1f} ms")
    return done


def _warm(processor: Processor, work: Work, beside: bool, learn: Callable[[Work, float, bool], None]) -> float:
    seconds = 0.0
    for _ in range(3):
        began = time.perf_counter()
        processor.execute([work.data], beside=beside)
        seconds = time.perf_counter() - began
        learn(work, seconds, beside)
        if seconds > 0.1:
            break
    return seconds


def _ask(processor: Processor, request: Request, limit: int | None) -> Answer:
    work = processor.prepare(request)
    pieces = processor.split(work, limit) if limit is not None and work.rows > limit else [(work.data, work.rows)]
    results = [processor.execute([data])[0] for data, _ in pieces]
    if isinstance(results[0], Events):
        return Answer(b"".join(results[0].events))
    return work.encode(processor.join(results) if len(results) > 1 else results[0])
