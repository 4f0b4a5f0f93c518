"""Requests and answers as the processors see them: bodies and media types, no sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

JSON = "application/json"
NPY = "application/x-npy"
SSE = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request, read whole. ``path`` is without the query; header names are in lower case."""

    method: str
    path: str
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""

    @property
    def media_type(self) -> str:
        """Of the body, without parameters; empty when the caller did not say."""
        return self.headers.get("content-type", "").split(";", 1)[0].strip().lower()

    def accepts(self, media_type: str) -> bool:
        """Whether the caller named this type in ``Accept``; ``*/*`` names none."""
        return media_type in self.headers.get("accept", "").lower()


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer."""

    body: bytes
    status: int = 200
    media_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Events:
    """An answer that comes in pieces: server-sent events, each whole and encoded.

    The iterator is driven by a worker's thread; ``cancel`` may be called from any other while it waits for the next
    event, and makes it end.
    """

    events: Iterator[bytes]
    cancel: Callable[[], None] = lambda: None
    media_type: str = SSE
