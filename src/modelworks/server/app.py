"""What the server answers to which path."""

from __future__ import annotations

import asyncio
import math
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from modelworks.server import v2
from modelworks.server.dispatch import Call, Dispatcher
from modelworks.server.messages import Answer, Request
from modelworks.server.problems import BadInput, Problem, answer_of
from modelworks.server.processors.base import Processor, Work
from modelworks.server.processors.tensors import dump_json
from modelworks.server.statistics import Statistics
from modelworks.server.streams import Stream

Reply = Callable[["Answer | Stream"], None]
_TIMEOUT_HEADER = "x-mw-timeout-ms"
_PACKED = ("gzip", "deflate")


class Ticket:
    """A prediction as its connection holds it: cancelled when the client goes."""

    __slots__ = ("call", "gone")

    def __init__(self) -> None:
        self.call: Call | None = None
        self.gone = False


class App:
    """Routes requests: the small ones are answered on the loop, predictions go to the dispatcher."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        processor: Processor,
        dispatcher: Dispatcher,
        statistics: Statistics,
        max_body: int,
        note: str = "",
    ) -> None:
        """``note``: what the user should know of the replica; the platform shows it."""
        self.processor = processor
        self.max_body = max_body
        self.draining = False
        self._loop = loop
        self._dispatcher = dispatcher
        self._ready = Answer(b'{"status":"ready"}', headers=(("X-Mw-Note", note),) if note else ())
        self._statistics = statistics
        # Images and compressed bodies are read here; their libraries let the loop run meanwhile.
        self._readers = ThreadPoolExecutor(1, thread_name_prefix="read")
        self._reading = 0

    def handle(self, request: Request, reply: Reply) -> Ticket | None:
        """Answer by calling ``reply`` once, now or later; the ticket of a prediction can be cancelled."""
        answered = self._statistics.answered

        def done(answer: Answer | Stream) -> None:
            answered[answer.status if isinstance(answer, Answer) else 200] += 1
            reply(answer)

        try:
            if request.method != "POST" or request.path.startswith("/v2"):
                now = self._at_once(request)
                if now is not None:
                    reply(now)
                    return None
            return self._predict(request, done)
        except Exception as error:  # a Problem, or a body nobody thought of
            done(answer_of(error))
            return None

    def cancel(self, ticket: Ticket) -> None:
        ticket.gone = True
        if ticket.call is not None:
            self._dispatcher.cancel(ticket.call)

    def close(self, patience: float) -> bool:
        """Ends what computes; False when something is left after ``patience`` seconds."""
        self._readers.shutdown(wait=False, cancel_futures=True)
        return self._dispatcher.close(patience)

    def metrics(self) -> bytes:
        dispatcher = self._dispatcher
        return self._statistics.text(
            in_flight=dispatcher.in_flight, queued=dispatcher.queued + self._reading, oldest=dispatcher.oldest()
        )

    def _predict(self, request: Request, done: Reply) -> Ticket:
        deadline = _deadline(request)
        self._dispatcher.check_room()
        ticket = Ticket()
        packed = request.headers.get("content-encoding", "").strip().lower()
        if packed in ("", "identity") and not self.processor.slow_prepare(request):
            self._submit(ticket, self.processor.prepare(request), deadline, done)
            return ticket
        if packed not in ("", "identity", *_PACKED):
            raise Problem(415, "invalid", f"Content-Encoding {packed!r} is not one of {', '.join(_PACKED)}")
        self._reading += 1
        future = self._readers.submit(self._prepare, request, packed)
        future.add_done_callback(
            lambda future: self._loop.call_soon_threadsafe(
                self._prepared, ticket, future.exception() or future.result(), deadline, done
            )
        )
        return ticket

    def _prepare(self, request: Request, packed: str) -> Work:
        if packed in _PACKED:
            request = replace(request, body=unpack(request.body, packed, self.max_body))
        return self.processor.prepare(request)

    def _prepared(self, ticket: Ticket, result: Work | BaseException, deadline: float, done: Reply) -> None:
        self._reading -= 1
        if ticket.gone:
            self._statistics.skipped["client-gone"] += 1
            return
        if not isinstance(result, BaseException):
            try:
                self._dispatcher.check_room()
                self._submit(ticket, result, deadline, done)
            except Problem as problem:
                result = problem
            else:
                return
        done(answer_of(result))

    def _submit(self, ticket: Ticket, work: Work, deadline: float, done: Reply) -> None:
        if work.timeout is not None:
            deadline = min(deadline, time.monotonic() + work.timeout)
        ticket.call = self._dispatcher.submit(work, deadline, done)

    def _at_once(self, request: Request) -> Answer | None:
        """Health, metrics and the model's description; None for a prediction."""
        path, method = request.path, request.method
        if path in ("/health", "/v2/health/ready") and method in ("GET", "HEAD"):
            if self.draining:
                raise Problem(503, "unavailable", "the replica is draining", retry_after=1.0)
            return self._ready
        if path == "/v2/repository/index" and method == "POST":
            ready = "UNAVAILABLE" if self.draining else "READY"
            return Answer(dump_json([{"name": self.processor.name, "version": "1", "state": ready, "reason": ""}]))
        if path.startswith(("/v2/repository/", "/v2/systemsharedmemory", "/v2/cudasharedmemory")):
            raise Problem(404, "not-found", f"{path} is not offered here: a service has one model, loaded at its start")
        if method in ("POST", "PUT"):
            return None
        if method not in ("GET", "HEAD"):
            raise Problem(405, "method-not-allowed", f"send predictions as POST, not {method}")
        if path == "/metrics":
            return Answer(self.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")
        if path == "/v2/health/live":
            return Answer(b'{"live":true}')
        if path == "/v2":
            return Answer(dump_json({"name": "modelworks", "version": "2", "extensions": v2.EXTENSIONS}))
        name, action = v2.model_path(path)
        if name is None:
            raise Problem(404, "not-found", f"nothing is at GET {path}; predictions are POSTs")
        if action == "ready":
            if self.draining:
                raise Problem(503, "unavailable", "the replica is draining", retry_after=1.0)
            return Answer(dump_json({"name": name, "ready": True}))
        if action == "":
            return Answer(dump_json(self.processor.metadata() | {"name": name}))
        if action == "config":
            return Answer(dump_json(self._config(name)))
        raise Problem(405, "method-not-allowed", f"{path} takes a POST")

    def _config(self, name: str) -> dict[str, object]:
        described = self.processor.metadata()
        return {
            "name": name,
            "platform": described["platform"],
            "backend": "modelworks",
            "max_batch_size": self._dispatcher.max_rows or 0,
            **{
                kind: [
                    {"name": item["name"], "data_type": f"TYPE_{_config_type(item['datatype'])}", "dims": item["shape"]}
                    for item in described[f"{kind}s"]
                ]
                for kind in ("input", "output")
            },
        }


def unpack(body: bytes, coding: str, most: int) -> bytes:
    """A compressed body, never larger than ``most`` bytes. Raises BadInput, and Problem 413."""
    # 32: gzip's or zlib's header, whichever is there.
    reader = zlib.decompressobj(zlib.MAX_WBITS | 32)
    try:
        found = reader.decompress(body, most + 1)
    except zlib.error as error:
        raise BadInput(f"the body is not {coding}: {error}", status=400) from None
    if len(found) > most:
        raise Problem(413, "too-large", f"the body is larger than {most} bytes")
    if not reader.eof:
        raise BadInput(f"the body is not {coding}: it ends too early", status=400)
    return found


def _deadline(request: Request) -> float:
    """When the caller gives up, on the monotonic clock."""
    given = request.headers.get(_TIMEOUT_HEADER)
    if given is None:
        return math.inf
    if not given.isascii() or not given.isdigit() or len(given) > 12:
        raise BadInput(f"X-Mw-Timeout-Ms is a number of milliseconds, not {given!r}", status=400)
    return time.monotonic() + int(given) / 1000


def _config_type(datatype: str) -> str:
    return {"BYTES": "STRING"}.get(datatype, datatype)
