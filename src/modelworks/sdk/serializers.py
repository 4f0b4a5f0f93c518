"""What a predictor sends and how it reads the answer."""

from __future__ import annotations

import json
from typing import Any, Protocol


class Serializer(Protocol):
    content_type: str

    def serialize(self, data: Any) -> bytes: ...
    def deserialize(self, data: bytes, content_type: str) -> Any: ...


class JsonSerializer:
    """JSON both ways; numpy arrays and scalars, also inside lists and mappings, are sent as lists and numbers.

    Bytes and text are sent as they are. An answer that is not JSON comes back as bytes, text as ``str``.
    """

    content_type = "application/json"

    def serialize(self, data: Any) -> bytes:
        if isinstance(data, bytes | bytearray | memoryview):
            return bytes(data)
        if isinstance(data, str):
            return data.encode()
        return json.dumps(data, default=_plain, separators=(",", ":")).encode()

    def deserialize(self, data: bytes, content_type: str) -> Any:
        if "json" in content_type:
            return json.loads(data)
        return data.decode() if content_type.startswith("text/") else data


class BytesSerializer:
    """Bytes both ways."""

    content_type = "application/octet-stream"

    def serialize(self, data: Any) -> bytes:
        return data.encode() if isinstance(data, str) else bytes(data)

    def deserialize(self, data: bytes, content_type: str) -> bytes:
        return data


def _plain(value: Any) -> Any:
    for method in ("tolist", "to_dict"):  # numpy, pandas
        convert = getattr(value, method, None)
        if callable(convert):
            return convert()
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")
