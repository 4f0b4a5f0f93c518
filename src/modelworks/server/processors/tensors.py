"""Arrays in and out of JSON: checked against what a model declares, with an error that names input and shape."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
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
V2_OF_DTYPE = dict(_TYPES.values())
_LONGEST_HEADER = 1024
DTYPE_OF_V2 = {name: dtype for dtype, name in _TYPES.values()}


def dtype_of_onnx(kind: str) -> str:
    """``tensor(float)`` → ``float32``; what is no tensor is taken for text."""
    return _TYPES.get(kind, ("object", "BYTES"))[0]


# A number too large for float32 becomes infinite, as everywhere; silence at each cast costs more than the cast.
warnings.filterwarnings("ignore", "overflow encountered in cast", RuntimeWarning)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output. A dimension that may be anything is None; the first one is usually the batch."""

    name: str
    dtype: str  # NumPy's name; `object` is text, empty is whatever the model makes of it
    shape: tuple[int | None, ...] | None  # None: any
    nullable: bool = False  # JSON's null is NaN, a missing value

    @property
    def v2(self) -> dict[str, Any]:
        shape = [-1] if self.shape is None else [-1 if size is None else size for size in self.shape]
        return {"name": self.name, "datatype": V2_OF_DTYPE.get(self.dtype, "BYTES"), "shape": shape}

    def described(self) -> str:
        kind = {"object": "text", "": "numbers or text"}.get(self.dtype, self.dtype)
        if self.shape is None:
            return f"input {self.name!r} takes {kind} of any shape"
        sizes = ", ".join("any" if size is None else str(size) for size in self.shape)
        return f"input {self.name!r} takes {kind} of shape [{sizes}]"


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
    if array.dtype == object and not _all_text(array) and (spec.dtype or value is not array):
        array = _with_nulls(value, spec)
    given_text = array.dtype.kind in "USO"
    if spec.dtype and (spec.dtype == "object") != given_text:
        raise BadInput(f"{spec.described()}; {'text' if given_text else array.dtype} was given")
    if spec.dtype and not given_text:
        array = _cast(array, spec)
    if spec.shape is not None:
        _check_shape(array, spec, spec.shape)
    if given_text:
        array = array.astype(object)
    return array


def _check_shape(array: Array, spec: TensorSpec, wanted: tuple[int | None, ...]) -> None:
    shape = array.shape
    if len(shape) == len(wanted):
        for want, have in zip(wanted, shape, strict=True):
            if want is not None and want != have:
                break
        else:
            return
    raise BadInput(f"{spec.described()}; {list(shape)} was given")


def _all_text(array: Array) -> bool:
    return bool(array.size) and all(isinstance(item, str) for item in array.ravel().tolist())


def _with_nulls(value: Any, spec: TensorSpec) -> Array:
    """Rows that hold null, where the model knows missing values."""
    if spec.nullable:
        try:
            array: Array = np.asarray(value, dtype=np.float64)
            return array
        except (ValueError, TypeError):
            pass
    raise BadInput(f"{spec.described()}; what was given holds null, objects or rows of different lengths")


def _cast(array: Array, spec: TensorSpec) -> Array:
    target = np.dtype(spec.dtype)
    if array.dtype == target:
        return array
    if target.kind in "iu" and array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):
        raise BadInput(f"{spec.described()}; numbers with fractions were given")
    if target.kind in "iu" and array.size and array.dtype.kind in "iuf":
        limits = np.iinfo(target)
        if array.min() < limits.min or array.max() > limits.max:
            raise BadInput(f"{spec.described()}; a number does not fit into {spec.dtype}")
    cast: Array = array.astype(target)
    return cast


def read_npy(body: bytes) -> Array:
    """The array of a ``.npy`` file, without a copy of its data; pickled objects are refused."""
    try:
        # The first version has two bytes for the length of its header, the others four.
        width = 2 if body[6:7] == b"\x01" else 4
        begin = 8 + width + int.from_bytes(body[8 : 8 + width], "little")
        shape, fortran, dtype = (_npy_header if begin <= _LONGEST_HEADER else _read_npy_header)(bytes(body[:begin]))
        size = math.prod(shape) * dtype.itemsize
        if len(body) - begin != size:
            raise ValueError(f"{len(body) - begin} bytes of data; the shape {list(shape)} of {dtype} takes {size}")
        array = np.frombuffer(body, dtype, offset=begin)
    except (ValueError, EOFError, OSError, TypeError) as error:
        raise BadInput(f"the body is not an array in NumPy's format: {error}", status=400) from None
    shaped: Array = array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
    # Big-endian arrays are legal in the format and unknown to the engines.
    return shaped if shaped.dtype.isnative else shaped.astype(shaped.dtype.newbyteorder("="))


def _read_npy_header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is in Fortran's order, and type; ``head`` ends where the data begins."""
    stream = io.BytesIO(head)
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(stream)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    return shape, fortran, dtype


# The header is the text of a Python literal, which takes longer to read than all else of an image; a client's next one
# is most often the same.
_npy_header = lru_cache(256)(_read_npy_header)


def write_npy(value: Any) -> bytes:
    array = np.asarray(value)
    if array.dtype == object:
        array = array.astype(str)
        if array.dtype == object:
            raise BadInput("this output is no array of numbers or text; ask for JSON", status=415)
    out = io.BytesIO()
    np.lib.format.write_array(out, array, allow_pickle=False)
    return out.getvalue()


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


def named(inputs: Sequence[TensorSpec]) -> str:
    return ", ".join(repr(spec.name) for spec in inputs)
