"""Requests and answers as the processors see them: bodies and media types, no sockets."""

from __future__ import annotations

from dataclasses import dataclass, field

JSON = "application/json"
NPY = "application/x-npy"


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Answer:
    """One HTTP answer."""

    body: bytes
    status: int = 200
    media_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
