"""What a GGUF file says of itself, read from its head."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from modelworks.engines.errors import CannotStart

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
# Bytes of the scalar types, by their number in the format.
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_LONGEST = 1 << 20
_WANTED = ("general.architecture", "general.type")
_ENCODERS = ("bert", "embedding", "t5encoder")


def describe(path: Path) -> dict[str, str]:
    """``general.architecture`` and ``general.type`` (``model``, ``adapter``), where they stand before the vocabulary.

    Raises CannotStart for what is no GGUF file.
    """
    found: dict[str, str] = {}
    try:
        with path.open("rb") as file:
            if file.read(4) != _MAGIC:
                raise CannotStart(f"{path} is not a GGUF file")
            _, _, entries = struct.unpack("<IQQ", file.read(20))
            for _ in range(entries):
                key = _text(file)
                (kind,) = struct.unpack("<I", file.read(4))
                if kind == _STRING:
                    value = _text(file)
                    if key in _WANTED:
                        found[key] = value
                elif kind in _SCALARS:
                    file.seek(_SCALARS[kind], 1)
                else:
                    break  # arrays are the vocabulary: what describes the file stands before it
    except (struct.error, UnicodeDecodeError) as error:
        raise CannotStart(f"{path} is not a whole GGUF file: {error}") from None
    return found


def is_adapter(path: Path) -> bool:
    return describe(path).get("general.type") == "adapter"


def is_encoder(path: Path) -> bool:
    """Whether it turns text into vectors only."""
    architecture = describe(path).get("general.architecture", "")
    return any(word in architecture for word in _ENCODERS)


def _text(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", file.read(8))
    if length > _LONGEST:
        raise struct.error(f"a text of {length} bytes")
    return file.read(length).decode()
