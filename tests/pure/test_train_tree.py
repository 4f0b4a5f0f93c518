"""States as they are kept: what comes back is what was given, and what cannot be kept is named."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from enum import IntEnum
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.train import tree

PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=5)
    | st.binary(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3) | st.integers() | st.tuples(st.integers()), inner, max_size=3)
    ),
    max_leaves=12,
)


def _again(value: Any) -> Any:
    leaves = tree.Leaves()
    kept = json.loads(json.dumps(tree.encode(value, "state", leaves)))
    data = b"".join(leaves.blobs)
    return tree.decode(kept, lambda name, path: leaves.tensors[name][path], lambda at, size: data[at : at + size])


@given(PLAIN)
def test_what_comes_back_is_what_was_given(value: Any) -> None:
    again = _again(value)
    assert again == value
    assert repr(again) == repr(value)  # 1 is not 1.0, and True not 1


def test_kinds_of_mappings_stay() -> None:
    value = {"c": Counter({3: 2}), "o": OrderedDict(a=1), "s": {1, 2}, "n": float("inf")}
    again = _again(value)
    assert again == value
    assert [type(again[name]) for name in "cos"] == [Counter, OrderedDict, set]


@pytest.mark.parametrize("dtype", ["float32", "int8", "bool", "complex64", "U3", "datetime64[s]", ">i4"])
def test_arrays_stay(dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    again = _again({"a": array.T})["a"]
    assert again.dtype == array.dtype
    assert (again == array.T).all()
    again[0] = again[1]  # it may be written


def test_scalars_of_other_types_become_plain() -> None:
    class Level(IntEnum):
        HIGH = 3

    assert _again([np.float32(0.5), np.int64(7), Level.HIGH]) == [0.5, 7, 3]


def test_what_cannot_be_kept_is_named() -> None:
    with pytest.raises(TypeError, match=r"best\['a/1'\] is a function: a checkpoint holds numbers"):
        tree.encode({"a": [1, test_kinds_of_mappings_stay]}, "best", tree.Leaves())
    with pytest.raises(TypeError, match="best is a ndarray"):
        tree.encode(np.array([object()]), "best", tree.Leaves())
