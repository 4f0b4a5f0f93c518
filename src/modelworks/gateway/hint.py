"""Large inputs inside of JSON: a body that is mostly base64 would do better as the URI of an object."""

from __future__ import annotations

import re

from modelworks.gateway.heads import RequestHead

LARGE = 256 * 1024
LINE = b"X-Mw-Hint: pass large inputs by URI (s3://bucket/key): base64 in JSON is a third larger, and slower\r\n"
_SAMPLE = 4096
_RUN = re.compile(rb"[A-Za-z0-9+/_=-]{1024}").search  # numbers have commas, and prose has spaces


class Hint:
    """Looks at a few kilobytes of each part of one body. ``wanted`` once it is large, and most parts were base64."""

    __slots__ = ("_hits", "_parts", "_size")

    def __init__(self) -> None:
        self._size = self._parts = self._hits = 0

    def add(self, data: bytes) -> None:
        self._size += len(data)
        if len(data) >= _SAMPLE:
            middle = (len(data) - _SAMPLE) // 2
            self._parts += 1
            self._hits += _RUN(data, middle, middle + _SAMPLE) is not None

    @property
    def wanted(self) -> bool:
        return self._size > LARGE and self._hits * 2 > self._parts


def may_want(head: RequestHead) -> bool:
    """Whether a request's body is to be looked at: JSON that is large, or may become so."""
    if not head.chunked and (head.length is None or head.length <= LARGE):
        return False
    lines = head.lines
    for i in range(0, len(lines), 4):
        if lines[i].lower() == b"content-type":
            return b"json" in lines[i + 2].lower()
    return False
