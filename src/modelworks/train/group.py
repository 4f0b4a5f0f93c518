"""The ranks of a job among each other, by ``torch.distributed`` where the script has initialised it.

Everything here goes through a gloo group of its own: it works with CPU tensors under NCCL too, and never waits behind
the collectives of the model.
"""

from __future__ import annotations

import os
import sys
from typing import Any

_CHUNK = 64 << 20  # bytes of a file sent at once
_groups: dict[int, Any] = {}


def _distributed() -> Any:
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    distributed = sys.modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed


def _group(distributed: Any) -> Any:
    """Made by the first call, in which every rank takes part."""
    world = id(distributed.group.WORLD)  # another one after destroy_process_group
    if world not in _groups:
        _groups.clear()
        _groups[world] = distributed.new_group(backend="gloo")
    return _groups[world]


def rank() -> int:
    distributed = _distributed()
    return int(distributed.get_rank()) if distributed else 0


def size() -> int:
    distributed = _distributed()
    return int(distributed.get_world_size()) if distributed else 1


def local_rank() -> int:
    """Which of the processes of its replica this is."""
    return _number("LOCAL_RANK", 0)


def local_size() -> int:
    """How many processes the replica has."""
    return max(_number("LOCAL_WORLD_SIZE", 1), 1)


def gather(value: Any) -> list[Any]:
    """What each rank gave, by rank. Every rank calls it."""
    distributed = _distributed()
    if distributed is None:
        return [value]
    found: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(found, value, group=_group(distributed))
    return found


def greatest(values: list[float]) -> list[float]:
    """The greatest of each number over all ranks. Every rank calls it."""
    distributed = _distributed()
    if distributed is None:
        return values
    tensor = sys.modules["torch"].tensor(values, dtype=sys.modules["torch"].float64)
    distributed.all_reduce(tensor, distributed.ReduceOp.MAX, group=_group(distributed))
    return [float(value) for value in tensor]


def send_bytes(data: bytes | None, length: int, source: int) -> bytes:
    """``data`` of rank ``source`` (``length`` bytes, which all know) on every rank. Every rank calls it."""
    distributed = _distributed()
    if distributed is None:
        return data or b""
    torch = sys.modules["torch"]
    if data is not None:
        tensor = torch.frombuffer(bytearray(data), dtype=torch.uint8) if length else torch.empty(0, dtype=torch.uint8)
    else:
        tensor = torch.empty(length, dtype=torch.uint8)
    if length:
        distributed.broadcast(tensor, source, group=_group(distributed))
    return bytes(tensor.numpy().data)


def chunks(length: int) -> list[tuple[int, int]]:
    """Offsets and lengths of the pieces in which a file of ``length`` bytes is sent."""
    return [(start, min(_CHUNK, length - start)) for start in range(0, length, _CHUNK)]


def _number(variable: str, otherwise: int) -> int:
    try:
        return int(os.environ.get(variable, ""))
    except ValueError:
        return otherwise
