"""The Open Inference Protocol (V2) over HTTP: tensors in JSON, or as bytes behind it."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelworks.server.messages import Answer, Request
from modelworks.server.problems import BadInput
from modelworks.server.processors.tensors import DTYPE_OF_V2, V2_OF_DTYPE, Array, dump_json, parse_json

_LENGTH_HEADER = "Inference-Header-Content-Length"
_LENGTH = struct.Struct("<I")
EXTENSIONS = ("binary_tensor_data", "model_configuration")


@dataclass(frozen=True, slots=True)
class Inference:
    """A request of the protocol: its inputs by name, and how the outputs are wanted.

    ``binary`` says of an output whether its data goes behind the JSON; ``wanted`` None is every output. ``timeout`` is
    in seconds. ``model`` is what the caller calls the model; empty where the path does not say.
    """

    id: str | None
    inputs: Mapping[str, Array]
    document: Mapping[str, Any]
    wanted: Mapping[str, bool] | None
    binary: bool
    timeout: float | None = None
    model: str = ""


def model_path(path: str) -> tuple[str | None, str]:
    """``/v2/models/<name>[/versions/<version>][/<action>]`` → name and action; other paths have no name."""
    parts = path.strip("/").split("/")
    if len(parts) in (5, 6) and parts[3] == "versions":
        del parts[3:5]
    if len(parts) in (3, 4) and parts[:2] == ["v2", "models"]:
        return parts[2], parts[3] if len(parts) == 4 else ""
    return None, ""


def read(request: Request, *, declared: bool = False) -> Inference:
    """``declared``: all that is known of the inputs' types is what the request declares.

    JSON data then becomes that type, and a BYTES tensor with an element that is not UTF-8 is one of bytes. A model that
    says what it takes casts its inputs itself. Raises BadInput, naming the tensor, for what breaks the protocol.
    """
    header, rest = _parts(request)
    document = parse_json(header)
    given = document.get("inputs") if isinstance(document, dict) else None
    if not isinstance(given, list) or not all(isinstance(item, dict) for item in given):
        raise BadInput("'inputs' is a list of {name, shape, datatype, data}", status=400)
    inputs: dict[str, Array] = {}
    for item in given:
        name = item.get("name")
        if not isinstance(name, str) or name in inputs:
            raise BadInput(f"every input has a 'name' of its own, not {name!r}", status=400)
        size = _parameters(item).get("binary_data_size")
        if size is None:
            inputs[name] = _from_json(name, item, declared)
            continue
        if not isinstance(size, int) or not 0 <= size <= len(rest):
            raise BadInput(
                f"input {name!r}: binary_data_size is {size!r}, and {len(rest)} bytes follow the JSON", status=400
            )
        inputs[name] = _from_bytes(name, item, rest[:size], declared)
        rest = rest[size:]
    if len(rest):
        raise BadInput(f"{len(rest)} bytes behind the JSON belong to no input", status=400)
    parameters = _parameters(document)
    timeout = parameters.get("timeout")
    identity = document.get("id")
    return Inference(
        id=str(identity) if identity is not None else None,
        inputs=inputs,
        document=document,
        wanted=_wanted(document),
        binary=bool(parameters.get("binary_data_output", False)),
        # The protocol's clients send microseconds; 0 is none.
        timeout=timeout / 1e6 if isinstance(timeout, int) and timeout > 0 else None,
        model=model_path(request.path)[0] or "",
    )


def write(model: str, inference: Inference, results: Mapping[str, Any]) -> Answer:
    """The answer with the wanted outputs; ``model`` names the model where the request does not.

    Raises BadInput for an output that the model does not have.
    """
    wanted = inference.wanted
    unknown = [name for name in wanted or () if name not in results]
    if unknown:
        raise BadInput(f"there is no output {unknown[0]!r}; the model has {', '.join(map(repr, results))}", status=400)
    outputs: list[dict[str, Any]] = []
    blobs: list[bytes] = []
    for name in wanted or results:
        array = np.asarray(results[name])
        kind = V2_OF_DTYPE.get(str(array.dtype), "BYTES")
        output: dict[str, Any] = {"name": name, "datatype": kind, "shape": list(array.shape)}
        if wanted[name] if wanted is not None else inference.binary:
            blob = _to_bytes(array, kind)
            output["parameters"] = {"binary_data_size": len(blob)}
            blobs.append(blob)
        else:
            output["data"] = _to_json(name, array)
        outputs.append(output)
    answer: dict[str, Any] = {"model_name": inference.model or model, "outputs": outputs}
    if inference.id is not None:
        answer["id"] = inference.id
    header = dump_json(answer)
    if not blobs:
        return Answer(header)
    headers = ((_LENGTH_HEADER, str(len(header))),)
    return Answer(b"".join((header, *blobs)), 200, "application/octet-stream", headers)


def _parts(request: Request) -> tuple[bytes, memoryview]:
    length = request.headers.get(_LENGTH_HEADER.lower())
    body = request.body
    if length is None:
        return body, memoryview(b"")
    if not length.isdigit() or int(length) > len(body):
        raise BadInput(f"{_LENGTH_HEADER} is {length!r}, and the body has {len(body)} bytes", status=400)
    return body[: int(length)], memoryview(body)[int(length) :]


def _parameters(document: Mapping[str, Any]) -> Mapping[str, Any]:
    found = document.get("parameters")
    return found if isinstance(found, dict) else {}


def _wanted(document: Mapping[str, Any]) -> dict[str, bool] | None:
    outputs = document.get("outputs")
    if not outputs:
        return None
    if not isinstance(outputs, list) or not all(isinstance(item, dict) and item.get("name") for item in outputs):
        raise BadInput("'outputs' is a list of {name, parameters}", status=400)
    default = bool(_parameters(document).get("binary_data_output", False))
    found = {}
    for item in outputs:
        parameters = _parameters(item)
        for unknown in ("classification", "shared_memory_region"):
            if parameters.get(unknown):
                raise BadInput(f"output {item['name']!r}: {unknown} is not offered here", status=400)
        found[str(item["name"])] = bool(parameters.get("binary_data", default))
    return found


def _shape(name: str, item: Mapping[str, Any]) -> list[int] | None:
    shape = item.get("shape")
    if shape is None:
        return None
    if not isinstance(shape, list) or not all(isinstance(size, int) and size >= 0 for size in shape):
        raise BadInput(f"input {name!r}: the shape is a list of sizes, not {shape!r}", status=400)
    return shape


def _datatype(name: str, item: Mapping[str, Any]) -> str | None:
    datatype = item.get("datatype")
    if datatype is not None and not isinstance(datatype, str):
        raise BadInput(f"input {name!r}: the datatype is text such as FP32, not {datatype!r}", status=400)
    return datatype


def _from_json(name: str, item: Mapping[str, Any], declared: bool) -> Array:
    shape, datatype = _shape(name, item), _datatype(name, item)
    if "shared_memory_region" in _parameters(item):
        raise BadInput(f"input {name!r}: shared memory is not offered here", status=400)
    if datatype is not None and datatype not in DTYPE_OF_V2:
        raise _unknown_type(name, datatype)
    data = item.get("data")
    try:
        array: Array = _typed(name, data, datatype) if declared and datatype is not None else np.asarray(data)
    except ValueError:
        raise BadInput(f"input {name!r}: the data's rows are of different lengths", status=400) from None
    if shape is None:
        return array
    try:
        return array.reshape(shape)
    except ValueError:
        raise BadInput(f"input {name!r}: the data does not have the shape {shape}", status=400) from None


def _typed(name: str, data: Any, datatype: str) -> Array:
    """JSON data as the datatype: exact, or BadInput. ValueError for rows of different lengths; null is NaN."""
    if not isinstance(data, list):
        raise BadInput(f"input {name!r}: the data is a list, not {type(data).__name__}", status=400)
    array: Array
    if datatype == "BYTES":
        array = np.asarray(data, dtype=object)
        if not all(isinstance(element, str) for element in array.ravel()):
            raise BadInput(f"input {name!r}: not all of the data is text, as BYTES is in JSON", status=400)
        return array
    array, target = np.asarray(data), np.dtype(DTYPE_OF_V2[datatype])
    if target.kind == "f" and array.dtype == object and all(_number(element) for element in array.ravel()):
        array = array.astype(np.float64)
    wrong = BadInput(f"input {name!r}: not all of the data is {datatype}", status=400)
    if array.dtype.kind not in "iufb":
        raise wrong
    if target.kind == "f":
        with np.errstate(over="ignore"):
            array = array.astype(target)
        if np.isinf(array).any():
            raise BadInput(f"input {name!r}: a number does not fit into {datatype}", status=400)
        return array
    least, most = (0, 1) if target.kind == "b" else (np.iinfo(target).min, np.iinfo(target).max)
    if array.dtype.kind == "f" and not np.array_equal(array, np.trunc(array)):
        raise wrong
    if array.size and (array.min() < least or array.max() > most):
        raise BadInput(f"input {name!r}: a number does not fit into {datatype}", status=400)
    try:
        # From the numbers themselves: large ones side by side with small ones were rounded on the way to an array.
        return np.asarray(data, dtype=target) if array.dtype.kind == "f" else array.astype(target)
    except OverflowError:
        raise BadInput(f"input {name!r}: a number does not fit into {datatype}", status=400) from None


def _number(element: object) -> bool:
    return element is None or isinstance(element, int | float)


def _from_bytes(name: str, item: Mapping[str, Any], data: memoryview, declared: bool) -> Array:
    shape, datatype = _shape(name, item), _datatype(name, item)
    if shape is None:
        raise BadInput(f"input {name!r}: binary data needs a shape", status=400)
    if datatype == "BYTES":
        return _elements(name, data, shape, declared)
    if datatype not in DTYPE_OF_V2:
        raise _unknown_type(name, datatype)
    dtype = np.dtype(DTYPE_OF_V2[datatype]).newbyteorder("<")
    size = math.prod(shape) * dtype.itemsize
    if size != len(data):
        raise BadInput(f"input {name!r}: {len(data)} bytes; {datatype} of shape {shape} takes {size}", status=400)
    array: Array = np.frombuffer(data, dtype).reshape(shape)
    return array


def _elements(name: str, data: memoryview, shape: list[int], declared: bool) -> Array:
    """Elements of a BYTES tensor: each a length of 4 bytes, little-endian, and so many bytes."""
    found: list[bytes] = []
    at = 0
    while at + 4 <= len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += 4
        if at + length > len(data):
            break
        found.append(bytes(data[at : at + length]))
        at += length
    if at != len(data) or len(found) != math.prod(shape):
        raise BadInput(f"input {name!r}: the bytes are not the {math.prod(shape)} elements of {shape}", status=400)
    texts: list[str] = []
    for element in found:
        try:
            texts.append(element.decode())
        except UnicodeDecodeError:
            if declared:
                break
            raise BadInput(f"input {name!r}: element {len(texts)} is not UTF-8", status=400) from None
    array: Array = np.array(texts if len(texts) == len(found) else found, dtype=object).reshape(shape)
    return array


def _to_bytes(array: Array, kind: str) -> bytes:
    if kind != "BYTES":
        data: bytes = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
        return data
    pieces: list[bytes] = []
    for element in array.ravel().tolist():
        if isinstance(element, bytes):
            data = element
        else:
            data = element.encode() if isinstance(element, str) else dump_json(element)
        pieces += (_LENGTH.pack(len(data)), data)
    return b"".join(pieces)


def _to_json(name: str, array: Array) -> list[Any]:
    """Flat, in row-major order. Raises BadInput for bytes that are no text: JSON cannot hold them."""
    found: list[Any] = array.ravel().tolist()
    if array.dtype.kind not in "SO":
        return found
    try:
        return [item.decode() if isinstance(item, bytes) else item for item in found]
    except UnicodeDecodeError:
        said = f"the output {name!r} holds bytes that are not UTF-8: ask for binary data (binary_data)"
        raise BadInput(said, status=400) from None


def _unknown_type(name: str, datatype: object) -> BadInput:
    return BadInput(f"input {name!r}: the datatype {datatype!r} is not one of {', '.join(DTYPE_OF_V2)}", status=400)
