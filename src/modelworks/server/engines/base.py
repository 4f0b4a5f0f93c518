"""What every engine can do, and how a model's file is found."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from modelworks.server.processors.tensors import Array, TensorSpec


class Engine(Protocol):
    """A loaded model. ``run`` is called from several threads at once."""

    name: str  # of the model
    platform: str  # as the Open Inference Protocol calls it
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    # Rows that one call may hold: None is any number, 1 also for models whose first dimension is not a batch.
    max_rows: int | None
    # Names of the columns of the only input, for rows given as objects; empty when the model has none.
    columns: tuple[str, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Any]: ...


@runtime_checkable
class Spreading(Protocol):
    """An engine that can also compute on one CPU, so that ``lanes`` calls run side by side; 1: it cannot here."""

    lanes: int

    def run_beside(self, feeds: Mapping[str, Array]) -> dict[str, Any]: ...


def find_file(directory: Path, preferred: Sequence[str], suffixes: Sequence[str], what: str) -> Path:
    """The first of ``preferred`` that is there, else the only file below with one of the suffixes.

    Raises FileNotFoundError that names what is there instead.
    """
    if directory.is_file():
        return directory
    for name in preferred:
        if (directory / name).is_file():
            return directory / name
    files = [path for path in sorted(directory.rglob("*")) if path.is_file()] if directory.is_dir() else []
    found = [path for path in files if path.name.endswith(tuple(suffixes))]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(str(path.relative_to(directory)) for path in found[:5])
        raise FileNotFoundError(
            f"several {what} files in the model and none is called {preferred[0]}: {names}; "
            f"name the one to serve (entry), or call it {preferred[0]}"
        )
    there = ", ".join(str(path.relative_to(directory)) for path in files[:5])
    raise FileNotFoundError(f"no {what} file in the model; it holds {there or 'nothing'}")


def missing(package: str, remedy: str) -> ImportError:
    """The environment lacks what the processor is an engine of."""
    return ImportError(f"the environment holds no {package}; {remedy}")


def same_rows(inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> bool:
    """Whether every input's first dimension is open, and so is every output's whose shape is known."""
    return bool(inputs) and all(
        spec.shape is None or (len(spec.shape) > 0 and spec.shape[0] is None) for spec in (*inputs, *outputs)
    )


def memory() -> int:
    """Bytes that this process may use: what the platform says, else what the machine has."""
    given = os.environ.get("MW_MEMORY", "")
    return int(given) if given.isdigit() else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def zeros(inputs: Sequence[TensorSpec], rows: int) -> dict[str, Array] | None:
    """Made-up feeds; None where a dimension beside the first one is open."""
    feeds: dict[str, Array] = {}
    for spec in inputs:
        if spec.shape is None or any(size is None for size in spec.shape[1:]) or spec.dtype in ("object", ""):
            return None
        shape = tuple(size if size is not None else rows for size in spec.shape)
        feeds[spec.name] = np.zeros(shape, spec.dtype)
    return feeds


Load = Callable[[Path], Engine]
