"""A class of the user's: ``initialize()`` once, ``process(data)`` for every request.

``process`` gets the parsed document of a JSON body, else the bytes. It returns what JSON can hold,
bytes, or ``(bytes, status)``; a generator of it is a stream of events. Classes with ``pre_process`` and
``post_process`` have them called around it. Classes of ``allspark.BaseProcessor`` get bytes and call their own
``pre_process`` and ``post_process``, as there.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import sys
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np

from modelworks.server import v2
from modelworks.server.messages import JSON, NPY, SSE, Answer, Events, Request
from modelworks.server.problems import Problem
from modelworks.server.processors.base import Work
from modelworks.server.processors.tensors import dump_json, parse_json, plain, read_npy

BINARY = "application/octet-stream"
SHIMS = Path(__file__).parents[1] / "shims"
FORM = "application/x-www-form-urlencoded"
_THREADS = 5  # as many as the cloud's Python processors have by default
_END = object()


class PythonProcessor:
    """Loads ``file.py:Class`` and makes one object of it; or serves one that is there already."""

    max_rows: int | None = 1
    # A user's code may take any time, and the event loop answers the health checks.
    inline = False
    threads = _THREADS
    lanes = 1

    def __init__(self, entry: str | None = None, *, instance: Any = None, threads: int | None = None) -> None:
        """``threads``: those of a class that takes one item after the other and says no number of its own."""
        if entry is not None:
            file, _, class_name = entry.partition(":")
            instance = _load(Path(file).resolve(), class_name)
        self._object = instance
        self.name = type(instance).__name__
        self._raw = is_allspark(instance)
        self._loop = _LoopThread()
        if hasattr(instance, "process_batch"):
            self.max_rows, self.threads = None, 1
        else:
            own = int(getattr(instance, "worker_threads", 0)) if self._raw else 0
            self.threads = own if own not in (0, _THREADS) else threads or _THREADS
        if hasattr(instance, "initialize"):
            self._resolved(instance.initialize())

    def slow_prepare(self, request: Request) -> bool:
        return False

    def prepare(self, request: Request) -> Work:
        """The data in the form that ``process`` takes it, and whether events are wanted."""
        if request.path.startswith("/v2/") and request.path.endswith("/infer"):
            return self._inference(request)
        if self._raw:
            return Work((request.body, request.accepts(SSE)), _same)
        data: Any = request.body
        if data and (request.media_type == JSON or _json_as_form(request.media_type, data)):
            data = parse_json(data)
        elif request.media_type == NPY:
            data = read_npy(data)
        asked = request.accepts(SSE) or (isinstance(data, dict) and data.get("stream") is True)
        work = Work((data, asked), _same)
        if asked and self.max_rows is None:
            work.key = object()  # a stream is nobody's neighbour
        return work

    def split(self, work: Work, limit: int) -> list[tuple[Any, int]]:
        return [(work.data, work.rows)]

    def join(self, results: Sequence[Any]) -> Any:
        return results[0]

    def execute(self, data: Sequence[Any], *, beside: bool = False) -> list[Any]:
        if hasattr(self._object, "process_batch") and not self._streams(data[0]):
            return self._batch([item[0] for item in data])
        return [self._one(*item) for item in data]

    def metadata(self) -> dict[str, Any]:
        return {"name": self.name, "versions": [], "platform": "python", "inputs": [], "outputs": []}

    def examples(self, limit: int | None) -> list[Work]:
        return []

    def _streams(self, item: tuple[Any, bool]) -> bool:
        return item[1] and hasattr(self._object, "stream")

    def _inference(self, request: Request) -> Work:
        """A class with ``infer(inputs)`` takes arrays by name and gives them; any other gets the document."""
        if not hasattr(self._object, "infer"):
            if "inference-header-content-length" in request.headers:
                raise Problem(415, "invalid", f"{self.name} has no method infer(inputs), which binary tensors need")
            return Work((request.body if self._raw else parse_json(request.body), False), _same)
        inference = v2.read(request, declared=True)
        return Work((inference, False), _same, key="infer", timeout=inference.timeout)

    def _batch(self, data: list[Any]) -> list[Any]:
        if isinstance(data[0], v2.Inference):
            return [self._infer(item) for item in data]
        data = [self._pre(item) for item in data]
        results = self._resolved(self._object.process_batch(data))
        if not isinstance(results, list | tuple) or len(results) != len(data):
            said = f"{len(results)} results" if isinstance(results, list | tuple) else type(results).__name__
            raise TypeError(f"process_batch() of {len(data)} items returned {said}; it returns a list of as many")
        return [encode(self._post(result)) for result in results]

    def _one(self, data: Any, asked: bool) -> Any:
        if isinstance(data, v2.Inference):
            return self._infer(data)
        if asked and hasattr(self._object, "stream"):
            return self._events(self._object.stream(self._pre(data)))
        if not hasattr(self._object, "process"):
            raise Problem(
                415, "invalid", f"{self.name} has no method process(data); POST to /v2/models/{self.name}/infer"
            )
        result = self._resolved(self._object.process(self._pre(data)))
        if inspect.isgenerator(result) or hasattr(result, "__anext__"):
            if asked:
                return self._events(result)
            # A client that does not read events gets them all at once.
            result = list(result) if inspect.isgenerator(result) else list(_drive(result, self._loop))
        return encode(self._post(result))

    def _infer(self, inference: v2.Inference) -> Answer:
        results = self._resolved(self._object.infer(dict(inference.inputs)))
        if not isinstance(results, dict):
            raise TypeError(f"infer() returned {type(results).__name__}; it returns arrays by name")
        return v2.write(self.name, inference, {str(name): np.asarray(value) for name, value in results.items()})

    def _pre(self, data: Any) -> Any:
        if not self._raw and hasattr(self._object, "pre_process"):
            return self._resolved(self._object.pre_process(data))
        return data

    def _post(self, result: Any) -> Any:
        if not self._raw and hasattr(self._object, "post_process"):
            return self._resolved(self._object.post_process(result))
        return result

    def _resolved(self, result: Any) -> Any:
        return self._loop.call(result) if inspect.iscoroutine(result) else result

    def _events(self, source: Any) -> Events:
        if inspect.iscoroutine(source):
            source = self._loop.call(source)
        if hasattr(source, "__anext__"):
            driven = _Driven(source, self._loop)
            return Events(_encoded(driven), driven.cancel)
        if not hasattr(source, "__iter__"):
            raise TypeError(f"stream() returned {type(source).__name__}; it returns a generator")
        return Events(_encoded(iter(source)))


def _json_as_form(media_type: str, body: bytes) -> bool:
    """Whether it is what `curl -d '{…}'` sends: JSON that calls itself a form, where these brackets are escaped."""
    return media_type == FORM and bytes(body[:64]).lstrip()[:1] in (b"{", b"[")


class _LoopThread:
    """An event loop for what a user writes with ``async``; its thread begins with the first need of it."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def submit(self, coroutine: Coroutine[Any, Any, Any]) -> Future[Any]:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=self._loop.run_forever, name="async", daemon=True).start()
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.submit(coroutine).result()


class _Driven:
    """An async generator as an iterator for a thread, which another thread can cancel while it waits."""

    def __init__(self, source: AsyncIterator[Any], loop: _LoopThread) -> None:
        self._source = source
        self._loop = loop
        self._next: Future[Any] | None = None
        self._cancelled = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        async def step() -> Any:
            try:
                return await self._source.__anext__()
            except StopAsyncIteration:
                return _END

        self._next = self._loop.submit(step())
        if self._cancelled:
            self._next.cancel()
        found = self._next.result()
        if found is _END:
            raise StopIteration
        return found

    def cancel(self) -> None:
        self._cancelled = True
        if self._next is not None:
            self._next.cancel()

    def close(self) -> None:
        close = getattr(self._source, "aclose", None)
        if close is not None:
            self._loop.call(close())


def _drive(source: AsyncIterator[Any], loop: _LoopThread) -> Iterator[Any]:
    return iter(_Driven(source, loop))


def _encoded(source: Iterator[Any]) -> Iterator[bytes]:
    try:
        for item in source:
            yield event(item)
    finally:
        close = getattr(source, "close", None)
        if close is not None:
            close()


def event(item: Any) -> bytes:
    """One server-sent event: text as it is, bytes as they are (whole events already), all else as JSON."""
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    text = item if isinstance(item, str) else dump_json(plain(item)).decode()
    # A line end of any kind ends a field; each line is a field of its own.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return "".join(f"data: {line}\n" for line in lines).encode() + b"\n"


def encode(result: Any) -> Answer:
    status = 200
    if isinstance(result, Answer):
        return result
    if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], int):
        result, status = result
        if not 200 <= status <= 599:
            raise Problem(500, "internal", f"process() returned the status {status}; it is between 200 and 599")
    if isinstance(result, bytes | bytearray | memoryview):
        body = bytes(result)
        return Answer(body, status, JSON if body[:1] in (b"{", b"[") else BINARY)
    if isinstance(result, str):
        return Answer(result.encode(), status, "text/plain; charset=utf-8")
    try:
        return Answer(dump_json(plain(result)), status)
    except TypeError as error:
        raise Problem(500, "internal", f"process() returned what JSON cannot hold: {error}") from None


def is_allspark(instance: Any) -> bool:
    """Whether the class was written against the cloud's base class."""
    return any(base.__module__.partition(".")[0] == "allspark" for base in type(instance).__mro__)


def _same(result: Any) -> Any:
    return result


def _load(path: Path, class_name: str) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"the code holds no file {path.name}")
    # What the entry's file imports lies beside it; `import allspark` finds ours.
    sys.path[:0] = [str(path.parent), str(SHIMS)]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path.name} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    try:
        found = getattr(module, class_name)
    except AttributeError:
        raise ImportError(f"{path.name} defines no class {class_name}") from None
    instance = found()
    if not any(hasattr(instance, name) for name in ("process", "process_batch", "infer")):
        raise ImportError(f"{class_name} in {path.name} has no method process(data)")
    return instance
