"""Arrays in and out of JSON: checked against what a model declares, with an error that names input and shape."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import orjson

from modelworks.server.problems import BadInput

# ONNX type → (numpy type, Open Inference Protocol type).
_TYPES: dict[str, tuple[str, str]] = {
    "tensor(float)": ("float32", "FP32"),
    "tensor(double)": ("float64", "FP64"),
    "tensor(float16)": ("float16", "FP16"),
    "tensor(int8)": ("int8", "INT8"),
    "tensor(int16)": ("int16", "INT16"),
    "tensor(int32)": ("int32", "INT32"),
    "tensor(int64)": ("int64", "INT64"),
    "tensor(uint8)": ("uint8", "UINT8"),
    "tensor(uint16)": ("uint16", "UINT16"),
    "tensor(uint32)": ("uint32", "UINT32"),
    "tensor(uint64)": ("uint64", "UINT64"),
    "tensor(bool)": ("bool", "BOOL"),
    "tensor(string)": ("object", "BYTES"),
}
_V2_OF_DTYPE = dict(_TYPES.values())


@dataclass(frozen=True)
class TensorSpec:
    """One input or output. A dimension that may be anything is None; the first one is usually the batch."""

    name: str
    type: str
    shape: tuple[int | None, ...]

    @property
    def dtype(self) -> str:
        return _TYPES.get(self.type, ("float32", "FP32"))[0]

    @property
    def v2(self) -> dict[str, Any]:
        shape = [-1 if size is None else size for size in self.shape]
        return {"name": self.name, "datatype": _TYPES.get(self.type, ("", "BYTES"))[1], "shape": shape}

    def described(self) -> str:
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"input {self.name!r} takes {self.dtype if self.dtype != 'object' else 'text'} of shape [{sizes}]"


def parse_json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadInput(f"the body is not JSON: {error}", status=400) from None


Array: TypeAlias = "np.ndarray[Any, Any]"


def to_array(value: Any, spec: TensorSpec) -> Array:
    """Nested lists, or an array, as the input's type and shape. Raises BadInput naming both."""
    try:
        array: Array = np.asarray(value)
    except ValueError:
        raise BadInput(f"{spec.described()}; the rows given are of different lengths") from None
    if array.dtype == object:
        raise BadInput(f"{spec.described()}; what was given holds null, objects or rows of different lengths")
    if (spec.dtype == "object") != (array.dtype.kind in "US"):
        raise BadInput(f"{spec.described()}; {'text' if array.dtype.kind in 'US' else array.dtype} was given")
    if spec.dtype != "object":
        array = _cast(array, spec)
    shape = array.shape
    fits = len(shape) == len(spec.shape) and all(
        want is None or want == have for want, have in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise BadInput(f"{spec.described()}; {list(shape)} was given")
    if spec.dtype == "object":
        array = array.astype(object)
    return array


def _cast(array: np.ndarray[Any, Any], spec: TensorSpec) -> np.ndarray[Any, Any]:
    target = np.dtype(spec.dtype)
    if array.dtype == target:
        return array
    if target.kind in "iu" and array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):
        raise BadInput(f"{spec.described()}; numbers with fractions were given")
    if target.kind in "iu" and array.size and array.dtype.kind in "iuf":
        limits = np.iinfo(target)
        if array.min() < limits.min or array.max() > limits.max:
            raise BadInput(f"{spec.described()}; a number does not fit into {spec.dtype}")
    with np.errstate(over="ignore"):
        cast: np.ndarray[Any, Any] = array.astype(target)
    return cast


def read_npy(body: bytes) -> np.ndarray[Any, Any]:
    """The array of a ``.npy`` file; pickled objects are refused."""
    try:
        array: np.ndarray[Any, Any] = np.load(io.BytesIO(body), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise BadInput(f"the body is not an array in NumPy's format: {error}", status=400) from None
    if not isinstance(array, np.ndarray):
        raise BadInput("the body is an archive of arrays; send one array as .npy", status=400)
    return array


def plain(value: Any) -> Any:
    """A model's output as what JSON can hold. Sequences of maps (ONNX's ZipMap) become lists of objects."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "iufb":
            return value.tolist()
        return np.ascontiguousarray(value.astype("float32") if value.dtype == np.float16 else value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def dump_json(document: Any) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS)


def v2_output(name: str, value: Any) -> dict[str, Any]:
    """One entry of ``outputs`` of an Open Inference Protocol answer, its data flat in row-major order."""
    array = np.asarray(value)
    kind = _V2_OF_DTYPE.get(str(array.dtype), "BYTES")
    return {"name": name, "datatype": kind, "shape": list(array.shape), "data": array.ravel().tolist()}


def named(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in inputs)
