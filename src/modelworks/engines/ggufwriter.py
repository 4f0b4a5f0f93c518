"""Writing a GGUF file: what describes it, then its tensors, copied from where they lie."""

from __future__ import annotations

import array
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

_VERSION, _ALIGNMENT = 3, 32
_CHUNK = 16 << 20  # bytes in memory at once; a multiple of every element's size
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY = 4, 5, 6, 7, 8, 9
# Element types: the name in safetensors → the number in GGUF, and bytes.
TYPES = {"F32": (0, 4), "F16": (1, 2), "BF16": (30, 2)}

Value = str | bool | int | float | Sequence[str] | Sequence[int]


@dataclass(frozen=True)
class Tensor:
    """``shape`` as PyTorch has it, the last axis the one that lies together; ``offset`` in bytes into ``file``.

    ``widened``: written as F32, whatever it was.
    """

    file: Path
    offset: int
    kind: str
    shape: tuple[int, ...]
    widened: bool = False

    @property
    def written(self) -> str:
        return "F32" if self.widened else self.kind

    @property
    def count(self) -> int:
        count = 1
        for length in self.shape:
            count *= length
        return count


def write(target: Path, described: Mapping[str, Value], tensors: Mapping[str, Tensor]) -> None:
    """Write ``target``. Floats become 32 bits wide, whole numbers unsigned, those in lists signed. Raises OSError."""
    with target.open("wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", _VERSION, len(tensors), len(described)))
        for key, value in described.items():
            file.write(_text(key) + _value(value))
        offset = 0
        for name, tensor in tensors.items():
            number, width = TYPES[tensor.written]
            shape = tensor.shape[::-1]
            file.write(_text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, number, offset))
            offset += _padded(tensor.count * width)
        _pad(file)
        for tensor in tensors.values():
            for piece in _pieces(tensor):
                file.write(piece)
            _pad(file)


def _pieces(tensor: Tensor) -> Iterator[bytes]:
    left = tensor.count * TYPES[tensor.kind][1]
    with tensor.file.open("rb") as source:
        source.seek(tensor.offset)
        while left > 0:
            piece = source.read(min(left, _CHUNK))
            if not piece:
                raise OSError(f"{tensor.file} is shorter than its head says")
            left -= len(piece)
            yield _wide(piece, tensor.kind) if tensor.widened else piece


def _wide(data: bytes, kind: str) -> bytes:
    """Numbers as F32, little-endian."""
    if kind == "F32":
        return data
    if kind == "BF16":  # the upper half of the same number
        wide = bytearray(2 * len(data))
        wide[2::4], wide[3::4] = data[0::2], data[1::2]
        return bytes(wide)
    numbers = array.array("f", struct.unpack(f"<{len(data) // 2}e", data))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", _BOOL, value)
    if isinstance(value, int):
        return struct.pack("<II", _UINT32, value)
    if isinstance(value, float):
        return struct.pack("<If", _FLOAT32, value)
    if any(isinstance(item, str) for item in value):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(_text(str(item)) for item in value)
    return struct.pack(f"<IIQ{len(value)}i", _ARRAY, _INT32, len(value), *value)


def _padded(length: int) -> int:
    return -(-length // _ALIGNMENT) * _ALIGNMENT


def _pad(file: BinaryIO) -> None:
    at = file.tell()
    file.write(bytes(_padded(at) - at))
