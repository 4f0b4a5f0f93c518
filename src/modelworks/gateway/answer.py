"""A replica's answer on its way to the client: its head rewritten, its body framed anew."""

from __future__ import annotations

from modelworks.gateway.heads import RequestHead, ResponseHead
from modelworks.gateway.problems import STATUS_LINES


class Answer:
    """Collects what goes to the client; ``take`` empties it.

    ``whole``: it is complete. ``until_close``: it ends with the replica's connection. ``keep``: the client's connection
    may be used again after it.
    """

    __slots__ = ("_chunked", "_interim", "_parts", "keep", "status", "until_close", "whole")

    def __init__(self) -> None:
        self.status = 0
        self.keep = self.whole = self.until_close = False
        self._chunked = self._interim = False
        self._parts: list[bytes] = []

    def head(self, response: ResponseHead, request: RequestHead, ours: bytes, keep: bool) -> None:
        """The final head; ``ours`` are our own lines in it."""
        self.status = response.status
        parts = [status_line(response.status), *response.lines, ours]
        length = response.length
        if length is not None:
            parts.append(b"Content-Length: %d\r\n" % length)
        if response.bodiless(request.method):
            self.whole = True
        elif length is None:
            self.until_close = not response.chunked
            if request.http11:
                self._chunked = True
                parts.append(b"Transfer-Encoding: chunked\r\n")
            else:
                keep = False
        if not keep:
            parts.append(b"Connection: close\r\n")
        elif not request.http11:
            parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"\r\n")
        self.keep = keep
        self._parts.append(b"".join(parts))

    def interim(self, response: ResponseHead, request: RequestHead) -> None:
        """A head before the final one. 100 is ours: `Expect` is answered here. The others are for the client."""
        self._interim = True
        if response.status != 100 and request.http11:
            self._parts += (status_line(response.status), *response.lines, b"\r\n")

    def switch(self, response: ResponseHead, protocol: bytes) -> None:
        """101: from here on both sides' bytes pass as they are."""
        self.status = 101
        self._parts += (
            status_line(101), *response.lines, b"Connection: Upgrade\r\nUpgrade: ", protocol, b"\r\n\r\n"
        )  # fmt: skip

    def body(self, data: bytes) -> None:
        if self.whole:
            return
        if self._chunked:
            self._parts += (b"%x\r\n" % len(data), data, b"\r\n")
        else:
            self._parts.append(data)

    def end(self) -> None:
        """A message of the replica has ended: the final one, or one before it."""
        if self._interim:
            self._interim = False
        elif not self.whole and self.status and self.status != 101:
            self.whole = True
            if self._chunked:
                self._parts.append(b"0\r\n\r\n")

    def take(self) -> bytes:
        parts = self._parts
        if not parts:
            return b""
        self._parts = []
        return parts[0] if len(parts) == 1 else b"".join(parts)


def status_line(status: int) -> bytes:
    return STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
