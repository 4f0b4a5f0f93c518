"""Server-sent events as they pass: how long until the first, and how many. A language model's are about its tokens."""

from __future__ import annotations

from modelworks.gateway.heads import ResponseHead
from modelworks.gateway.metrics import RevisionMetrics

_LONGEST = 256 * 1024
_DONE = b"data: [DONE]"  # the end of the stream in OpenAI's protocol, and no part of the answer


class Events:
    """Counts the events of one answer whose request came at ``began`` into its revision's ``counts``."""

    __slots__ = ("_began", "_counts", "_last", "_rest")

    def __init__(self, counts: RevisionMetrics, began: float) -> None:
        self._counts = counts
        self._began = began
        self._last: float | None = None
        self._rest = b""

    def add(self, data: bytes, now: float) -> None:
        """A part of the body, wherever it was cut."""
        text = self._rest + data
        if b"\r" in text:
            end = text[-1:] if text.endswith(b"\r") else b""  # its line feed may still come
            text = text[: len(text) - len(end)].replace(b"\r\n", b"\n").replace(b"\r", b"\n") + end
        *blocks, rest = text.split(b"\n\n")
        self._rest = rest if len(rest) <= _LONGEST else b""
        count = sum(1 for block in blocks if _is_event(block))
        if not count:
            return
        counts = self._counts
        counts.events += count
        if self._last is None:
            counts.first_event.add(now - self._began)
        else:
            counts.event_seconds += now - self._last
        self._last = now


def is_event_stream(response: ResponseHead) -> bool:
    lines = response.lines
    for i in range(0, len(lines), 4):
        if lines[i].lower() == b"content-type":
            return lines[i + 2].lstrip()[:17].lower() == b"text/event-stream"
    return False


def _is_event(block: bytes) -> bool:
    return block.strip() != _DONE and any(line.startswith(b"data") for line in block.split(b"\n"))
