"""INT8 weights that are rounded by what their layers compute."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from modelworks.compile.moments import Moments, as_rows, from_rows, patches
from modelworks.compile.rounding import output_errors, round_weights

Array = np.ndarray[Any, Any]


def correlated(random: np.random.Generator, groups: int, samples: int, width: int) -> Array:
    """Rows of inputs that rise and fall together."""
    shared = random.standard_normal((groups, samples, 2)) @ random.standard_normal((groups, 2, width))
    return (shared + 0.1 * random.standard_normal((groups, samples, width)) + 1).astype(np.float32)


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 4),
    st.integers(1, 5),
    st.integers(1, 12),
    st.booleans(),
    st.sampled_from([127, 64]),
)
@settings(max_examples=60)
def test_no_output_is_further_off_than_with_the_nearest(
    seed: int, groups: int, outputs: int, width: int, centred: bool, limit: int
) -> None:
    random = np.random.default_rng(seed)
    moments = Moments()
    for _ in range(2):
        moments.add(correlated(random, groups, 20, width))
    second = moments.second(centred)
    weight = random.standard_normal((groups, outputs, width))
    scale = np.abs(weight).max(axis=2) / limit
    found = round_weights(weight, scale, second, limit)
    assert np.array_equal(found, np.rint(found))
    assert np.abs(found).max() <= limit
    nearest = np.clip(np.rint(weight / scale[:, :, None]), -limit, limit)
    assert (output_errors(weight, found, scale, second) <= output_errors(weight, nearest, scale, second)).all()


def test_correlated_inputs_gain_much() -> None:
    random = np.random.default_rng(0)
    moments = Moments()
    moments.add(correlated(random, 1, 500, 64))
    second = moments.second(centred=True)
    weight = random.standard_normal((1, 16, 64))
    scale = np.abs(weight).max(axis=2) / 127
    nearest = np.rint(weight / scale[:, :, None])
    before = output_errors(weight, nearest, scale, second).mean()
    assert output_errors(weight, round_weights(weight, scale, second), scale, second).mean() < before / 5


def test_inputs_that_have_nothing_to_do_with_each_other_are_rounded_to_nearest() -> None:
    weight = np.random.default_rng(0).standard_normal((2, 3, 7))
    scale = np.abs(weight).max(axis=2) / 127
    found = round_weights(weight, scale, np.stack([np.eye(7)] * 2))
    assert np.array_equal(found, np.rint(weight / scale[:, :, None]))


def test_moments_are_those_of_all_rows_also_far_from_zero() -> None:
    random = np.random.default_rng(0)
    rows = (10_000 + random.standard_normal((2, 300, 4))).astype(np.float32)
    moments = Moments()
    for begin in (0, 50, 51):
        moments.add(rows[:, begin : {0: 50, 50: 51, 51: 300}[begin]])
    exact = rows.astype(np.float64)
    assert np.allclose(moments.mean, exact.mean(axis=1))
    for group in range(2):
        assert np.allclose(moments.second(True)[group], np.cov(exact[group].T, bias=True), atol=1e-3)
        assert np.allclose(moments.second(False)[group], exact[group].T @ exact[group] / 300)


def test_what_cannot_be_factorised_is_rounded_to_nearest() -> None:
    weight = np.random.default_rng(0).standard_normal((1, 3, 2))
    scale = np.abs(weight).max(axis=2) / 127
    found = round_weights(weight, scale, np.array([[[1.0, 5.0], [5.0, 1.0]]]))
    assert np.array_equal(found, np.rint(weight / scale[:, :, None]))


def test_an_input_that_is_always_the_same_harms_nothing() -> None:
    weight = np.random.default_rng(0).standard_normal((1, 3, 5))
    found = round_weights(weight, np.abs(weight).max(axis=2) / 127, np.zeros((1, 5, 5)))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("kind", ["Conv", "Gemm", "MatMul"])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_patches_times_rows_are_what_the_layer_computes(kind: str, data: st.DataObject) -> None:
    draw = data.draw
    random = np.random.default_rng(draw(st.integers(0, 1000)))
    options: dict[str, Any] = {}
    if kind == "Conv":
        groups = draw(st.sampled_from([1, 2, 3]))
        size = [draw(st.integers(1, 3)), draw(st.integers(1, 3))]
        options = {
            "group": groups,
            "strides": [draw(st.integers(1, 2)), draw(st.integers(1, 2))],
            "pads": [draw(st.integers(0, 2)) for _ in range(4)],
            "dilations": [draw(st.integers(1, 2)), draw(st.integers(1, 2))],
        }
        weight = random.standard_normal((2 * groups, draw(st.integers(1, 3)), *size)).astype(np.float32)
        value = random.standard_normal((2, groups * weight.shape[1], 6, 7)).astype(np.float32)
    else:
        turned = kind == "Gemm" and draw(st.booleans())
        options = {"transB": int(turned)} if kind == "Gemm" else {}
        weight = random.standard_normal((4, 5) if turned else (5, 4)).astype(np.float32)
        value = random.standard_normal((3, 5)).astype(np.float32)
    node = helper.make_node(kind, ["x", "w"], ["y"], **options)
    wanted = computed(node, value, weight)
    rows = as_rows(node, weight)
    assert np.array_equal(from_rows(node, rows, weight.shape), weight)
    count = options.get("group", 1)
    found = patches(node, value, weight.shape, random, most=10_000) @ rows.reshape(count, -1, rows.shape[1]).transpose(
        0, 2, 1
    )  # [groups, samples, outputs of a group]
    # Positions come in any order, and the outputs of a layer as [images, outputs, …].
    flat = found.transpose(1, 0, 2).reshape(found.shape[1], -1)
    target = np.moveaxis(wanted, 1, -1).reshape(-1, flat.shape[1])
    assert flat.shape == target.shape
    assert np.allclose(np.sort(flat, axis=0), np.sort(target, axis=0), atol=1e-4)


def computed(node: Any, value: Array, weight: Array) -> Array:
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, value.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {"x": value})[0]
    return found
