"""Samples of real inputs, with labels or without: what INT8 is calibrated on, and what the variants are judged by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from modelworks.compile.errors import CompileError, first_line

Array: TypeAlias = "np.ndarray[Any, Any]"
LABELS = ("labels", "label", "y", "target")
_ONLY = ""  # the array of a file that does not name its input
MOST_CALIBRATION, MOST_EVALUATION, LEAST_TO_SPLIT = 512, 4096, 40


@dataclass(frozen=True)
class Input:
    """An input of the model. A dimension that may be anything is None; the first is the batch."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"input {self.name!r} takes {self.dtype} of shape [{sizes}]"


@dataclass(frozen=True)
class Samples:
    """``inputs`` by name, each [N, …]; ``labels`` [N] or None."""

    inputs: Mapping[str, Array]
    labels: Array | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def rows(self, chosen: Array | slice) -> Samples:
        labels = None if self.labels is None else self.labels[chosen]
        return Samples({name: array[chosen] for name, array in self.inputs.items()}, labels)

    def batch(self, size: int, start: int = 0) -> dict[str, Array]:
        """``size`` rows from ``start``, from the beginning again where they end."""
        rows: Array = np.arange(start, start + size) % len(self)
        return {name: np.ascontiguousarray(array[rows]) for name, array in self.inputs.items()}

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """All rows, ``size`` at a time."""
        return (self.batch(size, start) for start in range(0, len(self), size))


@dataclass(frozen=True)
class Split:
    """What is calibrated on, and what is judged by: different rows where there are enough."""

    calibration: Samples
    evaluation: Samples
    held_out: bool


def load(path: Path, labels: Path | None = None) -> Samples:
    """Arrays of a ``.npy``, ``.npz`` or ``.csv`` file, or of a folder of them. Raises CompileError.

    In an ``.npz`` and in a CSV's header ``labels``, ``label``, ``y`` and ``target`` are the labels; a folder may hold
    ``labels.npy``. The inputs are not checked against a model yet: :func:`bind` does.
    """
    if not path.exists():
        raise CompileError(f"there is no calibration data at {path}")
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in _READERS)
    if not files:
        raise CompileError(f"no .npy, .npz or .csv file in the calibration data {path.name}")
    parts: dict[str, list[Array]] = {}
    for file in files:
        found = _read(file)
        if file.stem in LABELS and set(found) == {_ONLY}:
            found = {"labels": found[_ONLY]}
        for name, array in found.items():
            parts.setdefault("labels" if name in LABELS else name, []).append(array)
    if labels is not None:
        parts["labels"] = [_read(labels).get(_ONLY, np.empty(0))]
    try:
        arrays = {name: np.concatenate(pieces) if len(pieces) > 1 else pieces[0] for name, pieces in parts.items()}
    except ValueError as error:
        raise CompileError(f"the files of the calibration data do not fit together: {error}") from None
    truth = arrays.pop("labels", None)
    if not arrays:
        raise CompileError("the calibration data holds labels alone")
    rows = {name or "the array": len(array) for name, array in arrays.items()}
    if truth is not None:
        rows["labels"] = len(truth)
    if len(set(rows.values())) > 1:
        told = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise CompileError(f"the calibration data has different numbers of rows: {told}")
    return Samples(arrays, None if truth is None else truth.reshape(len(truth), -1)[:, 0])


def bind(samples: Samples, inputs: Sequence[Input]) -> Samples:
    """The samples under the model's input names, as its types. Raises CompileError naming input, type and shape."""
    given = dict(samples.inputs)
    if set(given) == {_ONLY} or (len(given) == 1 and len(inputs) == 1):
        if len(inputs) != 1:
            names = ", ".join(one.name for one in inputs)
            raise CompileError(
                f"the model has {len(inputs)} inputs ({names}) and the data does not name them", "give an .npz"
            )
        given = {inputs[0].name: next(iter(given.values()))}
    missing = [one.name for one in inputs if one.name not in given]
    unknown = sorted(set(given) - {one.name for one in inputs})
    if missing or unknown:
        said = f"misses the input {missing[0]!r}" if missing else f"holds {unknown[0]!r}, which is no input"
        raise CompileError(f"the calibration data {said}; {'; '.join(map(str, inputs))}")
    return Samples({one.name: _fit(given[one.name], one) for one in inputs}, samples.labels)


def synthetic(inputs: Sequence[Input], rows: int = 64) -> Samples:
    """Noise of the model's shapes, to measure speed where there is no data. Raises CompileError."""
    random = np.random.default_rng(0)
    made: dict[str, Array] = {}
    for one in inputs:
        free = [size for size in one.shape[1:] if size is None]
        kind = np.dtype(one.dtype).kind if one.dtype != "object" else "O"
        if free or kind not in "fiub":
            raise CompileError(f"{one}: it cannot be made up", "give a sample of real inputs by --calibrate")
        shape = (rows, *(size or 1 for size in one.shape[1:]))
        made[one.name] = (
            random.standard_normal(shape).astype(one.dtype) if kind == "f" else np.zeros(shape, dtype=one.dtype)
        )
    return Samples(made)


def split(samples: Samples) -> Split:
    """Half to calibrate on, half to judge by, at random but always the same; few rows are used for both."""
    count = len(samples)
    order = np.random.default_rng(0).permutation(count)
    if count < LEAST_TO_SPLIT:
        everything = samples.rows(order)
        return Split(everything, everything, False)
    half = min(count // 2, MOST_CALIBRATION)
    return Split(samples.rows(order[:half]), samples.rows(order[half : half + MOST_EVALUATION]), True)


def _fit(array: Array, one: Input) -> Array:
    def wrong(given: str) -> CompileError:
        return CompileError(f"calibration data: {one}; the data is {given}")

    if one.dtype == "object" or array.dtype.kind not in "fiub":
        raise wrong(str(array.dtype))
    if array.ndim == len(one.shape) - 1 and len(one.shape) > 1 and tuple(array.shape) == one.shape[1:]:
        array = array[None]  # one sample without its batch
    fits = array.ndim == len(one.shape) and all(
        want is None or want == have for want, have in zip(one.shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        raise wrong(f"{array.dtype} of shape {list(array.shape)}")
    if not len(array):
        raise CompileError(f"calibration data: there are no rows for the input {one.name!r}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CompileError(f"calibration data: input {one.name!r} holds values that are not finite numbers")
    return array.astype(one.dtype, copy=False)


def _read(path: Path) -> dict[str, Array]:
    reader = _READERS.get(path.suffix)
    if reader is None:
        raise CompileError(f"{path.name} is not .npy, .npz or .csv")
    try:
        return reader(path)
    except CompileError:
        raise
    except (OSError, ValueError, EOFError, KeyError) as error:
        raise CompileError(f"{path.name} cannot be read: {first_line(error)}") from None


def _npy(path: Path) -> dict[str, Array]:
    found: Array = np.load(path, allow_pickle=False)
    return {_ONLY: found}


def _npz(path: Path) -> dict[str, Array]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _csv(path: Path) -> dict[str, Array]:
    """Numbers, one sample a line; a header may name the column of labels."""
    with path.open(encoding="utf-8-sig") as file:
        header = [name.strip() for name in file.readline().split(",")]
    named = not all(_number(name) for name in header)
    table: Array = np.loadtxt(path, delimiter=",", skiprows=int(named), ndmin=2, encoding="utf-8-sig")
    truth = [index for index, name in enumerate(header) if named and name.lower() in LABELS]
    if not truth:
        return {_ONLY: table}
    return {_ONLY: np.delete(table, truth, axis=1), "labels": table[:, truth[0]]}


def _number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_READERS = {".npy": _npy, ".npz": _npz, ".csv": _csv}
