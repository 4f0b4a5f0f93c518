"""A request's bytes on their way to its replica."""

from __future__ import annotations

from modelworks.gateway.upstream import UpstreamConnection

_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"))


class Outgoing:
    """What has come and has not gone yet, and what went in one piece, in case that it has to go again.

    ``received``: bytes of the body so far; ``waited``: how many of them came while there was no connection, of which
    no more than ``buffer`` are kept for another time.
    """

    __slots__ = ("_buffer", "_chunked", "_gone", "_kept", "_parts", "_stamp", "received", "waited")

    def __init__(self, first: bytes, buffer: int, *, chunked: bool) -> None:
        self._parts = [first]
        self._buffer = buffer
        self._chunked = chunked
        self._kept: list[bytes] | None = None
        self._gone = False
        self._stamp = b""
        self.received = self.waited = 0

    @property
    def whole(self) -> bytes:
        """All that has come, before anything has gone."""
        return b"".join(self._parts)

    @property
    def full(self) -> bool:
        """Whether more has waited for a connection than should."""
        return self.waited > self._buffer

    def add(self, data: bytes, *, waiting: bool) -> None:
        size = len(data)
        self.received += size
        if waiting:
            self.waited += size
        if self._chunked:
            self._parts += (b"%x\r\n" % size, data, b"\r\n")
        else:
            self._parts.append(data)

    def stamp(self, line: bytes) -> None:
        """One more header line, if the head has not gone yet; what goes again has it once, with its last value."""
        if not self._gone and self._parts:
            self._parts[0] = self._parts[0][: -2 - len(self._stamp)] + line + b"\r\n"
            self._stamp = line

    def end(self) -> None:
        if self._chunked:
            self._parts.append(b"0\r\n\r\n")

    def take(self) -> bytes:
        """What is to go now; empty when there is nothing."""
        parts = self._parts
        if not parts:
            return b""
        self._parts = []
        # Once a second part has gone the whole is no longer at hand.
        self._kept = None if self._gone or self.full else parts
        self._gone = True
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def drop(self) -> None:
        self._parts = []

    def again(self) -> None:
        """The connection was lost, and all that went goes once more."""
        self._parts = [*(self._kept or ()), *self._parts]
        self._kept, self._gone = None, False

    def repeatable(
        self, upstream: UpstreamConnection, method: bytes, error: Exception | None, *, complete: bool, unix: bool
    ) -> bool:
        """A replica may end just when a request comes: safe when it cannot have read the request, or when reading it
        twice is allowed. A fresh connection that has met the request is enough, though: once.

        ``error`` ended the connection, of a ``unix`` socket or not; ``complete``: the client has sent all."""
        if self._kept is None:
            return False
        reset = unix and isinstance(error, ConnectionResetError)
        if complete and (reset or (unix and isinstance(error, BrokenPipeError))):
            return True  # so a Unix socket says that its peer closed without having read it all
        if not upstream.reused:
            return False
        if method in _IDEMPOTENT or isinstance(error, BrokenPipeError):
            return True
        return not reset and upstream.unsent_at_end >= sum(map(len, self._kept))
