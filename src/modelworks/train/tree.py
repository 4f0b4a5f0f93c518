"""A nested state as plain JSON, its tensors, arrays and bytes apart: reading it runs no code of it."""

from __future__ import annotations

import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

_SCALARS = (str, bool, int, float, type(None))


class Leaves:
    """What ``encode`` puts apart: tensors by name and path, and one sequence of bytes for arrays and byte strings."""

    def __init__(self) -> None:
        self.tensors: dict[str, dict[str, Any]] = {}
        self.blobs: list[bytes] = []
        self._offset = 0

    def add_tensor(self, name: str, path: str, tensor: Any) -> str:
        """The path under which it is found again: keys ``"a/b"`` and ``a`` with ``b`` inside must not meet."""
        known = self.tensors.setdefault(name, {})
        while path in known:
            path += "'"
        known[path] = tensor
        return path

    def add_blob(self, data: bytes) -> int:
        """Its offset."""
        offset = self._offset
        self.blobs.append(data)
        self._offset += len(data)
        return offset


def encode(value: Any, name: str, leaves: Leaves, path: str = "") -> Any:
    """The JSON form of ``value``, which ``decode`` makes the same again; the state called ``name`` in messages.

    Plain values and arrays are copied now; tensors are handed on as they are. Raises TypeError naming what cannot be
    kept.
    """
    if type(value) in _SCALARS:
        return value
    if isinstance(value, list):
        return [encode(item, name, leaves, _below(path, i)) for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        kind = "counter" if isinstance(value, Counter) else "ordered" if isinstance(value, OrderedDict) else "dict"
        pairs = [
            [encode(key, name, leaves, path), encode(item, name, leaves, _below(path, key))]
            for key, item in value.items()
        ]
        return {kind: pairs}
    if isinstance(value, tuple):
        return {"tuple": [encode(item, name, leaves, _below(path, i)) for i, item in enumerate(value)]}
    if isinstance(value, set | frozenset):
        return {"set": [encode(item, name, leaves, path) for item in value]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": [leaves.add_blob(bytes(value)), len(value)]}
    return _encode_other(value, name, leaves, path)


def _encode_other(value: Any, name: str, leaves: Leaves, path: str) -> Any:
    torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
    if torch is not None and isinstance(value, torch.Tensor):
        if hasattr(value, "placements"):
            raise TypeError(
                f"{_at(name, path)} is sharded over the ranks (DTensor): give the whole one, from "
                "torch.distributed.checkpoint.state_dict.get_model_state_dict with full_state_dict"
            )
        return {"tensor": [name, leaves.add_tensor(name, path, value.detach())]}
    if numpy is not None and isinstance(value, numpy.generic):
        return encode(value.item(), name, leaves, path)
    if numpy is not None and isinstance(value, numpy.ndarray) and not value.dtype.hasobject:
        whole = numpy.ascontiguousarray(value)
        return {"array": [leaves.add_blob(whole.tobytes()), whole.nbytes, value.dtype.str, list(value.shape)]}
    for scalar in (bool, int, float, str):  # enumerations and the like, as the value that they are
        if isinstance(value, scalar):
            return scalar(value)
    raise TypeError(
        f"{_at(name, path)} is a {type(value).__name__}: a checkpoint holds numbers, text, bytes, lists, mappings, "
        "NumPy arrays, tensors, and what has state_dict() and load_state_dict()"
    )


def decode(value: Any, tensor: Callable[[str, str], Any], blob: Callable[[int, int], bytes]) -> Any:
    """The inverse of ``encode``; ``tensor`` and ``blob`` find what was put apart. Raises ValueError."""

    def again(item: Any) -> Any:
        return decode(item, tensor, blob)

    if type(value) in _SCALARS:
        return value
    if isinstance(value, list):
        return [again(item) for item in value]
    ((kind, inner),) = value.items()
    if kind in ("dict", "ordered", "counter"):
        pairs = [(again(key), again(item)) for key, item in inner]
        return Counter(dict(pairs)) if kind == "counter" else OrderedDict(pairs) if kind == "ordered" else dict(pairs)
    if kind == "tuple":
        return tuple(again(item) for item in inner)
    if kind == "set":
        return {again(item) for item in inner}
    if kind == "bytes":
        return blob(*inner)
    if kind == "tensor":
        return tensor(*inner)
    if kind == "array":
        import numpy  # noqa: PLC0415 - only who saved arrays needs it

        offset, size, dtype, shape = inner
        return numpy.frombuffer(blob(offset, size), dtype=dtype).reshape(shape).copy()
    raise ValueError(f"a checkpoint has no {kind!r}")


def _below(path: str, key: Any) -> str:
    return f"{path}/{key}" if path else str(key)


def _at(name: str, path: str) -> str:
    return f"{name}[{path!r}]" if path else name
