"""HTTP/1.1 on a connection: one request at a time is answered, in order; the rest waits in the socket."""

from __future__ import annotations

import asyncio
from typing import cast

import httptools

from modelworks.server.app import App, Ticket
from modelworks.server.messages import Answer, Request
from modelworks.server.problems import REASONS, Problem, answer_of
from modelworks.server.streams import Stream

MAX_HEADERS = 64 << 10
# Names of headers and targets as they were written, decoded once. Callers choose them: their number has an end.
_NAMES: dict[bytes, str] = {}
_PATHS: dict[bytes, str] = {}
_MOST_NAMES = 512


class Connection(asyncio.Protocol):
    """``connections`` is the set of open ones, which a draining server waits for."""

    def __init__(self, app: App, connections: set[Connection]) -> None:
        self._app = app
        self._connections = connections
        self._max_body = app.max_body
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpRequestParser(self)
        self._ticket: Ticket | None = None
        self._stream: Stream | None = None
        self._waiting: list[tuple[Request, bool]] = []
        self._closing = False
        self._busy = False
        self._reset()

    def _reset(self) -> None:
        self._url = b""
        self._headers: dict[str, str] = {}
        self._header_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._transport = None
        self._waiting.clear()
        if self._ticket is not None:
            self._app.cancel(self._ticket)

    def pause_writing(self) -> None:
        if self._stream is not None:
            self._stream.pause()

    def resume_writing(self) -> None:
        if self._stream is not None:
            self._stream.resume()

    def data_received(self, data: bytes) -> None:
        if self._closing:
            return
        try:
            self._parser.feed_data(data)
        except Problem as problem:
            self._refuse(problem)
        except httptools.HttpParserUpgrade:
            self._refuse(Problem(400, "invalid", "this server does not upgrade connections"))
        except httptools.HttpParserError as error:
            cause = error.__context__
            found = cause if isinstance(cause, Problem) else Problem(400, "invalid", "this is not an HTTP request")
            self._refuse(found)

    # httptools' callbacks

    def on_message_begin(self) -> None:
        self._reset()

    def on_url(self, url: bytes) -> None:
        self._url += url
        self._count_header(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        known = _NAMES.get(name)
        if known is None:
            known = name.decode("latin-1").lower()
            if len(_NAMES) < _MOST_NAMES:
                _NAMES[name] = known
        self._headers[known] = value.decode("latin-1")
        self._count_header(len(name) + len(value))

    def _count_header(self, size: int) -> None:
        self._header_bytes += size
        if self._header_bytes > MAX_HEADERS:
            raise Problem(431, "too-large", f"the headers are larger than {MAX_HEADERS} bytes")

    def on_headers_complete(self) -> None:
        length = self._headers.get("content-length", "")
        if length.isdigit() and int(length) > self._max_body:
            raise self._too_large()
        if self._headers.get("expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        if self._body_bytes > self._max_body:
            raise self._too_large()
        self._body.append(body)

    def on_message_complete(self) -> None:
        path = _PATHS.get(self._url) or _path(self._url)
        method = self._parser.get_method().decode("latin-1")
        body = self._body
        request = Request(method, path, self._headers, body[0] if len(body) == 1 else b"".join(body))
        keep = self._parser.should_keep_alive()
        self._body = []
        if self._busy:
            self._waiting.append((request, keep))
            if self._transport is not None:
                self._transport.pause_reading()
            return
        self._begin(request, keep)

    # answering

    def _begin(self, request: Request, keep: bool) -> None:
        self._busy = True
        head_only = request.method == "HEAD"
        ticket = self._app.handle(request, lambda answer: self._answer(answer, keep, head_only))
        if self._busy:  # not answered already
            self._ticket = ticket

    def _answer(self, answer: Answer | Stream, keep: bool, head_only: bool = False) -> None:
        transport = self._transport
        if isinstance(answer, Stream):
            if transport is not None:
                self._send_events(answer, keep)
            return
        self._busy, self._ticket = False, None
        if transport is None:
            return
        keep = keep and not self._app.draining and not self._closing
        transport.write(_head(answer, keep) if head_only else _head(answer, keep) + answer.body)
        self._next(keep)

    def _next(self, keep: bool) -> None:
        if self._transport is None:
            return
        if not keep:
            self._closing = True
            self._transport.close()
        elif self._waiting:
            request, next_keep = self._waiting.pop(0)
            if not self._waiting:
                self._transport.resume_reading()
            self._begin(request, next_keep)

    def _send_events(self, stream: Stream, keep: bool) -> None:
        """Each event is a chunk of its own, written as it comes. HTTP/1.0 knows no chunks: there the end closes."""
        if self._transport is None:
            return
        chunked = self._parser.get_http_version() != "1.0"
        keep = keep and chunked and not self._app.draining and not self._closing
        self._stream = stream
        self._transport.write(_stream_head(stream, chunked, keep))

        def send(event: bytes | None) -> None:
            if self._transport is None:
                return
            if event is not None:
                self._transport.write(b"%x\r\n%b\r\n" % (len(event), event) if chunked else event)
                return
            if chunked:
                self._transport.write(b"0\r\n\r\n")
            self._busy, self._ticket, self._stream = False, None, None
            self._next(keep and not self._app.draining)

        stream.attach(send)

    def _refuse(self, problem: Problem) -> None:
        """Answer what is not a request, and close: nothing after it can be trusted."""
        if self._transport is None or self._closing:
            return
        self._closing = True
        if self._busy:
            return  # the request before it is still to be answered; the connection closes with that answer
        self._answer(answer_of(problem), keep=False)

    def _too_large(self) -> Problem:
        return Problem(413, "too-large", f"the body is larger than {self._max_body} bytes")

    @property
    def busy(self) -> bool:
        return self._busy

    def close_when_idle(self) -> None:
        """A draining server needs no idle connections."""
        if not self._busy and self._transport is not None:
            self._closing = True
            self._transport.close()


def _path(url: bytes) -> str:
    """A target's path, without the query."""
    try:
        path: str = (httptools.parse_url(url).path or b"/").decode("latin-1")
    except httptools.HttpParserInvalidURLError:
        raise Problem(400, "invalid", "the request's target is not a path") from None
    if len(_PATHS) < _MOST_NAMES and len(url) < 256:
        _PATHS[url] = path
    return path


def _head(answer: Answer, keep: bool) -> bytes:
    if answer.status == 200 and keep and not answer.headers:
        return b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n" % (
            answer.media_type.encode("latin-1"),
            len(answer.body),
        )
    lines = [
        f"HTTP/1.1 {answer.status} {REASONS.get(answer.status, 'Status')}",
        f"Content-Type: {answer.media_type}",
        f"Content-Length: {len(answer.body)}",
        *(f"{name}: {value}" for name, value in answer.headers),
        *(() if keep else ("Connection: close",)),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def _stream_head(stream: Stream, chunked: bool, keep: bool) -> bytes:
    lines = [
        "HTTP/1.1 200 OK",
        f"Content-Type: {stream.media_type}",
        "Cache-Control: no-cache",
        *(("Transfer-Encoding: chunked",) if chunked else ()),
        *(() if keep else ("Connection: close",)),
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
