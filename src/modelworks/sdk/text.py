"""Strings as the cloud's SDK and scripts use them."""

from __future__ import annotations

import codecs
import re
import secrets
from typing import TextIO


class CallableStr(str):
    """A text that scripts read both as an attribute and as a call: ``job.model_data`` and ``job.model_data()``."""

    __slots__ = ()

    def __call__(self) -> str:
        return str(self)


def resource_name(text: str, *, unique: bool = False) -> str:
    """A valid resource name out of any text; with ``unique`` ended by six random characters."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-") or "job"
    if not unique:
        return slug[:63].rstrip("-")
    return f"{slug[:56].rstrip('-')}-{secrets.token_hex(3)}"


class Utf8Writer:
    """Writes bytes that come in pieces to a text stream; a character that is cut in two is written whole."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def __call__(self, chunk: bytes) -> None:
        self._stream.write(self._decode(chunk))
        self._stream.flush()
