"""One connection to a replica: its answers are parsed here and told to the exchange it serves."""

from __future__ import annotations

import asyncio
from typing import Protocol, cast

import httptools

from modelworks.gateway.answer import status_line
from modelworks.gateway.heads import Headers, ResponseHead, read_response
from modelworks.gateway.known import KnownAnswer, Memory, WholeAnswer, plain_answer, whole

# A replica is not trusted with the gateway's memory.
_MOST_HEADERS = 256
_LARGEST_HEAD = 256 * 1024


class Asking(Protocol):
    """Who waits for an answer on an upstream connection. ``unfold``: the one who can take it in parts."""

    @property
    def tunnel(self) -> bool: ...
    def answer_known(self, known: WholeAnswer, data: bytes) -> bool: ...
    def unfold(self) -> Answering: ...
    def upstream_lost(self, error: Exception | None) -> None: ...
    def upstream_ended(self) -> None: ...
    def upstream_blocked(self, blocked: bool) -> None: ...


class Answering(Asking, Protocol):
    """The side of an exchange that an upstream connection sees."""

    def answer_head(self, response: ResponseHead | None) -> None: ...
    def answer_body(self, data: bytes) -> None: ...
    def answer_end(self) -> None: ...
    def answered(self) -> bool: ...
    def switched(self) -> bool: ...
    def silent(self) -> bool: ...
    def deliver(self) -> None: ...
    def tunnel_down(self, data: bytes) -> None: ...
    def finish(self) -> None: ...
    def broken(self, detail: str) -> None: ...


class UpstreamConnection(asyncio.Protocol):
    """Parses answers one after another. ``exchange`` is None while it is idle in its pool; ``memory`` is of the
    replica's answers, ``ours`` our own headers in them for those who did not queue."""

    __slots__ = (
        "_between", "_headers", "_keep", "_key", "_memory", "_ours", "_parser", "_pending", "exchange", "lost",
        "reused", "transport", "unsent_at_end",
    )  # fmt: skip

    transport: asyncio.Transport

    def __init__(self, memory: Memory[WholeAnswer], ours: bytes) -> None:
        self._memory = memory
        self._ours = ours
        self._key: bytes | None = None  # of the answer that is being parsed, if it may be remembered
        self._between = True  # the parser has read whole messages only
        self.exchange: Asking | None = None
        self.reused = False
        self.lost = False
        self.unsent_at_end = 0  # bytes that had not left when the replica closed its side
        self._keep = False  # as the parser said at the end of the last answer; it forgets
        self._pending = 0
        self._headers: Headers = []
        self._parser = httptools.HttpResponseParser(self)

    def fileno(self) -> int:
        return int(self.transport.get_extra_info("socket").fileno())

    def close(self) -> None:
        """Drop the connection at once: nothing that is still to be sent is wanted."""
        self.exchange = None
        if not self.lost:
            self.lost = True
            self.transport.abort()

    def reusable(self) -> bool:
        """Whether another request may follow the answer that has just ended."""
        return self._keep and not self.lost

    def expect_no_body(self) -> None:
        """The answer ends with its head, whatever length it speaks of (HEAD, 304): the parser cannot know."""
        self._keep = self._parser.should_keep_alive()
        self._parser = httptools.HttpResponseParser(self)

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        asking = self.exchange
        if asking is None:
            self.close()  # an answer nobody asked for
            return
        if self._between and not asking.tunnel and (known := self._memory.find(data)) is not None:
            self._keep = True
            if asking.answer_known(known, data):
                return
        exchange = asking.unfold()
        if exchange.tunnel:
            exchange.tunnel_down(data)
            return
        message = whole(data) if self._between else None
        self._key = message[0] if message is not None and message[1] is not None else None
        parser = self._parser
        try:
            parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            if self.exchange is exchange and exchange.switched():
                exchange.deliver()
                if rest := data[upgrade.args[0] :]:
                    exchange.tunnel_down(rest)
                return
            if not exchange.answered():
                exchange.broken("it switched protocols unasked")
                return
        except httptools.HttpParserError as error:
            if self.exchange is exchange and not exchange.answered():
                exchange.broken(f"its answer is not valid HTTP: {error}")
                return
            # The answer was whole; what came after it ends only this connection.
            self.lost = True
        if self.exchange is not exchange:
            return
        exchange.deliver()
        if exchange.answered():
            if self.lost:
                self.transport.abort()
            exchange.finish()
        elif exchange.silent():
            self._pending += len(data)
            if self._pending > _LARGEST_HEAD:
                exchange.broken("its headers are too large")

    def eof_received(self) -> bool:
        self.unsent_at_end = self.transport.get_write_buffer_size()
        if self.exchange is not None:
            self.exchange.upstream_ended()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        exchange, self.exchange = self.exchange, None
        self._parser = None
        if exchange is not None:
            exchange.upstream_lost(error)

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.upstream_blocked(True)

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.upstream_blocked(False)

    # httptools

    def on_message_begin(self) -> None:
        self._between = False
        self._keep = False  # until its end; one that nobody asked for has no end

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))
        if len(self._headers) > _MOST_HEADERS:
            raise ValueError("too many headers")

    def on_headers_complete(self) -> None:
        headers, self._headers = self._headers, []
        self._pending = 0
        exchange = self._answering()
        if exchange is not None and not exchange.answered():
            response = read_response(self._parser.get_status_code(), headers)
            if response is not None and self._key is not None:
                self._learn(self._key, response)
            exchange.answer_head(response)

    def on_body(self, data: bytes) -> None:
        exchange = self._answering()
        if exchange is not None:
            exchange.answer_body(data)

    def on_message_complete(self) -> None:
        self._between = True
        self._headers = []  # trailers are not passed on
        exchange = self._answering()
        if exchange is not None and not exchange.answered():
            self._keep = self._parser.should_keep_alive()
            exchange.answer_end()

    # Inside

    def _answering(self) -> Answering | None:
        return self.exchange.unfold() if self.exchange is not None else None

    def _learn(self, key: bytes, response: ResponseHead) -> None:
        if plain_answer(response) and self._parser.should_keep_alive():
            lines = status_line(response.status) + b"".join(response.lines)
            self._memory.learn(key, KnownAnswer(response.status, lines, self._ours))
