"""The state of the random generators of this process."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def capture() -> dict[str, Any]:
    """Python's, NumPy's and PyTorch's global generators, as far as the modules are loaded; CUDA's of this device.

    Plain values and bytes.
    """
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    state: dict[str, Any] = {"python": random.getstate()}
    if numpy is not None:
        kind, keys, *rest = numpy.random.get_state()
        state["numpy"] = (kind, keys.tobytes(), *rest)
    if torch is not None:
        state["torch"] = bytes(torch.get_rng_state().tolist())
        if torch.cuda.is_available() and torch.cuda.is_initialized():
            state["cuda"] = bytes(torch.cuda.get_rng_state().tolist())
    return state


def restore(state: dict[str, Any]) -> None:
    """The inverse of ``capture``; what this process has not is left out."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    random.setstate(state["python"])
    if numpy is not None and "numpy" in state:
        kind, keys, *rest = state["numpy"]
        numpy.random.set_state((kind, numpy.frombuffer(keys, numpy.uint32), *rest))
    if torch is not None and "torch" in state:
        torch.set_rng_state(torch.tensor(list(state["torch"]), dtype=torch.uint8))
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(torch.tensor(list(state["cuda"]), dtype=torch.uint8))


@contextmanager
def apart(seed: int | None = None) -> Iterator[None]:
    """What happens inside draws from other numbers, seeded with ``seed``, and leaves the generators as they were."""
    before = capture()
    try:
        if seed is not None:
            seed_all(seed)
        yield
    finally:
        restore(before)


def seed_all(seed: int) -> None:
    """Seed the CPU's generators, as far as their modules are loaded."""
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    random.seed(seed)
    if numpy is not None:
        numpy.random.seed(seed % 2**32)
    if torch is not None:
        torch.random.default_generator.manual_seed(seed)
