"""Whatever a body holds, the model server answers with a problem of the caller's or with arrays."""

from __future__ import annotations

import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelworks.server import v2
from modelworks.server.app import unpack
from modelworks.server.messages import Request
from modelworks.server.problems import BadInput, Problem
from modelworks.server.processors.python import event
from modelworks.server.processors.tensors import (
    DTYPE_OF_V2,
    V2_OF_DTYPE,
    TensorSpec,
    dump_json,
    read_npy,
    to_array,
    write_npy,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)
KINDS = ("float32", "float64", "float16", "int8", "int64", "uint8", "bool", "object", "")
SPECS = st.builds(
    TensorSpec,
    st.just("x"),
    st.sampled_from(KINDS),
    st.none() | st.lists(st.none() | st.integers(0, 3), max_size=3).map(tuple),
    st.booleans(),
)


@given(value=JSON, spec=SPECS)
def test_nested_lists_become_the_declared_array_or_bad_input(value: Any, spec: TensorSpec) -> None:
    try:
        array = to_array(value, spec)
    except BadInput:
        return
    assert not spec.dtype or array.dtype == np.dtype(spec.dtype)
    if spec.shape is not None:
        assert len(array.shape) == len(spec.shape)
        assert all(want in (None, have) for want, have in zip(spec.shape, array.shape, strict=True))


@given(document=JSON, rest=st.binary(max_size=40), length=st.none() | st.integers(0, 60))
def test_any_document_of_v2_is_read_or_refused(document: Any, rest: bytes, length: int | None) -> None:
    try:
        header = dump_json(document)
    except TypeError:
        return  # integers that JSON's writer does not take
    headers = {} if length is None else {"inference-header-content-length": str(length)}
    try:
        found = v2.read(Request("POST", "/v2/models/m/infer", headers, header + rest))
    except BadInput:
        return
    assert all(isinstance(array, np.ndarray) for array in found.inputs.values())


TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(("a", "b", None, 3)),
        "shape": st.none() | st.lists(st.integers(-1, 4), max_size=3) | st.just([2**40, 2**40]),
        "datatype": st.sampled_from(("FP32", "INT64", "BYTES", "BOOL", "BF16", 7, None, ["FP32"])),
        "data": JSON,
        "parameters": st.none()
        | st.fixed_dictionaries({"binary_data_size": st.sampled_from((0, 4, 8, -1, "8", True))}),
    },
)


@given(inputs=st.lists(TENSORS, max_size=3), rest=st.binary(max_size=20), declared=st.booleans())
def test_any_tensors_of_v2_are_read_or_refused(inputs: list[dict[str, Any]], rest: bytes, declared: bool) -> None:
    try:
        header = dump_json({"inputs": inputs})
    except TypeError:
        return
    headers = {"inference-header-content-length": str(len(header))}
    try:
        found = v2.read(Request("POST", "/v2/models/m/infer", headers, header + rest), declared=declared)
    except BadInput:
        return
    assert all(isinstance(array, np.ndarray) for array in found.inputs.values())
    for item in inputs if declared else ():
        if isinstance(item.get("datatype"), str):
            assert found.inputs[item["name"]].dtype == DTYPE_OF_V2[item["datatype"]]


def declared_in_json(datatype: str, data: Any) -> Any:
    document = {"inputs": [{"name": "x", "shape": [len(data)], "datatype": datatype, "data": data}]}
    return v2.read(Request("POST", "/v2/models/m/infer", {}, dump_json(document)), declared=True).inputs["x"]


@given(
    value=arrays.arrays(
        st.sampled_from([np.dtype(name) for name in DTYPE_OF_V2.values() if name != "object"]),
        arrays.array_shapes(max_dims=1, min_side=0),
    )
)
def test_json_becomes_what_its_datatype_declares_to_the_last_digit(value: Any) -> None:
    value = value[~np.isinf(value)] if value.dtype.kind == "f" else value
    back = declared_in_json(V2_OF_DTYPE[str(value.dtype)], value.tolist())
    assert back.dtype == value.dtype
    assert np.array_equal(back, value, equal_nan=value.dtype.kind == "f")  # NaN is null in JSON


@pytest.mark.parametrize(
    ("datatype", "data", "words"),
    [
        ("INT8", [1, 128], "a number does not fit into INT8"),
        ("UINT8", [-1], "a number does not fit into UINT8"),
        ("INT64", [9223372036854775808], "a number does not fit into INT64"),
        ("INT64", [1e30], "a number does not fit into INT64"),
        ("FP32", [1e39], "a number does not fit into FP32"),
        ("FP16", [70000], "a number does not fit into FP16"),
        ("INT32", [1.5], "not all of the data is INT32"),
        ("INT32", [None], "not all of the data is INT32"),
        ("FP32", ["1"], "not all of the data is FP32"),
        ("BOOL", [2], "a number does not fit into BOOL"),
        ("BYTES", ["a", 1], "not all of the data is text"),
        ("FP32", [[1], [1, 2]], "the data's rows are of different lengths"),
        ("FP32", {}, "the data is a list, not dict"),
    ],
)
def test_json_that_is_not_of_its_datatype_is_refused_by_its_name(datatype: str, data: Any, words: str) -> None:
    with pytest.raises(BadInput, match=f"input 'x': {words}") as found:
        declared_in_json(datatype, data)
    assert found.value.status == 400


def test_text_in_json_is_whole_and_large_integers_beside_small_ones_are_exact() -> None:
    assert declared_in_json("BYTES", ["a\0", "", "é"]).tolist() == ["a\0", "", "é"]
    assert declared_in_json("UINT64", [2**63 + 1, 5]).tolist() == [2**63 + 1, 5]


@given(given=st.lists(st.binary(max_size=6) | st.text(max_size=6).map(str.encode), min_size=1, max_size=5))
def test_bytes_that_are_no_text_stay_bytes(given: list[bytes]) -> None:
    blob = b"".join(struct.pack("<I", len(one)) + one for one in given)
    item = {"name": "x", "shape": [len(given)], "datatype": "BYTES", "parameters": {"binary_data_size": len(blob)}}
    header = dump_json({"inputs": [item]})
    request = Request("POST", "/", {"inference-header-content-length": str(len(header))}, header + blob)
    try:
        wanted: list[Any] = [one.decode() for one in given]
    except UnicodeDecodeError:
        wanted = given
        with pytest.raises(BadInput, match="is not UTF-8"):  # a model that declares text has none
            v2.read(request)
    back = v2.read(request, declared=True).inputs["x"]
    assert back.tolist() == wanted
    if wanted is given:
        with pytest.raises(BadInput, match="the output 'y' holds bytes"):
            v2.write("m", v2.Inference(None, {}, {}, None, False), {"y": back})


@given(
    value=arrays.arrays(
        st.sampled_from(("float32", "int64", "uint8", "bool", "float16")), arrays.array_shapes(min_dims=0, min_side=0)
    )
)
def test_binary_tensors_come_back_as_they_went(value: Any) -> None:
    inference = v2.Inference("1", {}, {}, {"y": True}, False)
    answer = v2.write("m", inference, {"y": value})
    length = int(dict(answer.headers)["Inference-Header-Content-Length"])
    document = answer.body[:length].replace(b'"outputs"', b'"inputs"')
    headers = {"inference-header-content-length": str(len(document))}
    back = v2.read(Request("POST", "/", headers, document + answer.body[length:])).inputs["y"]
    assert back.dtype == value.dtype
    assert np.array_equal(back, value, equal_nan=value.dtype.kind == "f")


@given(texts=st.lists(st.text(max_size=8), max_size=6))
def test_texts_go_as_lengths_and_bytes(texts: list[str]) -> None:
    answer = v2.write("m", v2.Inference(None, {}, {}, None, True), {"y": np.array(texts, dtype=object)})
    length = int(dict(answer.headers)["Inference-Header-Content-Length"])
    data, found = answer.body[length:], []
    while data:
        (size,) = struct.unpack_from("<I", data)
        found.append(data[4 : 4 + size].decode())
        data = data[4 + size :]
    assert found == texts


@given(
    value=arrays.arrays(st.sampled_from(("<f4", ">f4", "<i8", "|b1")), arrays.array_shapes(min_dims=0, min_side=0)),
    fortran=st.booleans(),
    cut=st.integers(0, 300),
)
def test_arrays_are_read_whole_or_refused(value: Any, fortran: bool, cut: int) -> None:
    body = io.BytesIO()
    np.save(body, value.copy(order="F" if fortran else "C"))
    back = read_npy(body.getvalue())
    assert np.array_equal(back, value, equal_nan=value.dtype.kind == "f")
    assert np.array_equal(read_npy(write_npy(back)), back, equal_nan=value.dtype.kind == "f")
    if 0 < cut <= len(body.getvalue()):
        with pytest.raises(BadInput):
            read_npy(body.getvalue()[:-cut])


@given(body=st.binary(max_size=300))
def test_rubbish_is_no_array_and_not_compressed(body: bytes) -> None:
    for read in (lambda: read_npy(b"\x93NUMPY" + body), lambda: unpack(body, "gzip", 100)):
        try:
            read()
        except Problem:
            continue


@given(text=st.text())
def test_an_event_is_one_event_whatever_its_text(text: str) -> None:
    sent = event(text)
    assert sent.endswith(b"\n\n")
    assert b"\n\n" not in sent[:-2]
    assert b"\r" not in sent
    # Splitting at "\n" alone: other separators of Unicode are text.
    lines = [line.removeprefix(b"data: ") for line in sent[:-2].split(b"\n")]
    assert b"\n".join(lines).decode("utf-8", "surrogatepass") == text.replace("\r\n", "\n").replace("\r", "\n")
