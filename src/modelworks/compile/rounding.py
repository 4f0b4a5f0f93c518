"""INT8 weights rounded so that a layer's outputs on real inputs come near, instead of each weight by itself.

Where the inputs of a layer rise and fall together, as those of an image do, the errors of weights that are each rounded
to nearest add up. Here the columns of a weight are rounded one after the other, and those that follow make up for what
one loses (optimal brain quantisation, by the Cholesky factor of the inverse as in GPTQ); what is left on average goes
into the bias. Scales, zero points and the graph stay as they are: it costs nothing when the model runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from modelworks.compile.data import Array
from modelworks.compile.moments import Moments, as_rows, from_rows

_DAMPING = 0.01  # of the mean variance: directions in which the samples hardly vary say little


@dataclass(frozen=True)
class _Stored:
    """Whole numbers in the quantised graph that one layer alone reads, and their scale."""

    values: Any
    scale: Array


def refine(original: Path, quantised: Path, moments: Mapping[str, Moments]) -> int:
    """Round the weights of ``quantised``, the QDQ form of ``original``, again. ``moments`` are of the original's layers
    by name. Returns how many layers that were; those without moments or in another form stay as they are."""
    before, after = onnx.load(str(original)), onnx.load(str(quantised))
    exact = {one.name: one for one in before.graph.initializer}
    weights = {node.name: exact.get(node.input[1]) for node in before.graph.node if node.name in moments}
    found = _Graph(after)
    done = 0
    for node in after.graph.node:
        weight = weights.get(node.name)
        stored = found.stored(node, 1, np.int8) if weight is not None else None
        if weight is None or stored is None:
            continue
        full: Array = numpy_helper.to_array(weight).astype(np.float64)
        _round(node, full, stored, found.stored(node, 2, np.int32), moments[node.name])
        done += 1
    onnx.save(after, str(quantised))
    return done


def round_weights(weight: Array, scale: Array, second: Array, limit: int = 127) -> Array:
    """Whole numbers of which ``scale`` makes ``weight``, up to ``limit`` in either direction.

    ``weight`` is [groups, outputs, inputs], ``scale`` [groups, outputs], ``second`` [groups, inputs, inputs] the mean
    products of the inputs. No output is further off, by those, than with the nearest numbers.
    """
    nearest: Array = np.clip(np.rint(weight / scale[:, :, None]), -limit, limit)
    try:
        found = _compensated(weight, scale, second, limit)
    except np.linalg.LinAlgError:  # inputs that differ by more orders of magnitude than there are digits
        return nearest
    better = output_errors(weight, found, scale, second) < output_errors(weight, nearest, scale, second)
    chosen: Array = np.where(better[:, :, None], found, nearest)
    return chosen


def _compensated(weight: Array, scale: Array, second: Array, limit: int) -> Array:
    variances = np.einsum("gii->gi", second)
    # Inputs that vary most come first, while there is most left to make up for their error.
    order = np.argsort(-variances, axis=1, kind="stable")
    rest = np.take_along_axis(weight, order[:, None, :], axis=2)
    matrix = np.take_along_axis(np.take_along_axis(second, order[:, :, None], axis=1), order[:, None, :], axis=2)
    damping = _DAMPING * np.maximum(variances, 0).mean(axis=1) + 1e-12
    matrix = matrix + damping[:, None, None] * np.eye(weight.shape[2])
    factor = np.linalg.cholesky(np.linalg.inv(matrix)).transpose(0, 2, 1)
    whole = np.empty_like(rest)
    for column in range(weight.shape[2]):
        exact = rest[:, :, column]
        whole[:, :, column] = np.clip(np.rint(exact / scale), -limit, limit)
        lost = (exact - whole[:, :, column] * scale) / factor[:, None, column, column]
        rest[:, :, column + 1 :] -= lost[:, :, None] * factor[:, None, column, column + 1 :]
    found: Array = np.take_along_axis(whole, np.argsort(order, axis=1)[:, None, :], axis=2)
    return found


def output_errors(weight: Array, whole: Array, scale: Array, second: Array) -> Array:
    """The mean squared error of each output, [groups, outputs]."""
    lost = weight - whole * scale[:, :, None]
    found: Array = np.einsum("goi,goi->go", lost @ second, lost)
    return found


def _round(node: Any, weight: Array, stored: _Stored, bias: _Stored | None, moments: Moments) -> None:
    mean, second = moments.mean, moments.second(centred=bias is not None)
    groups, width = mean.shape
    rows = as_rows(node, weight).reshape(groups, -1, width)
    scale: Array = np.broadcast_to(stored.scale.reshape(groups, -1) if stored.scale.size > 1 else stored.scale,
                                   rows.shape[:2])  # fmt: skip
    given = numpy_helper.to_array(stored.values)
    # The largest weight of each output has the largest number, which is less than 127 for CPUs that would overflow.
    whole = round_weights(rows, scale, second, int(np.abs(given.astype(np.int16)).max()))
    _write(stored.values, from_rows(node, whole, given.shape).astype(np.int8))
    if bias is not None:
        shift = np.einsum("goi,gi->go", rows - whole * scale[:, :, None], mean).reshape(-1)
        moved = numpy_helper.to_array(bias.values).astype(np.float64) + np.rint(shift / bias.scale)
        _write(bias.values, np.clip(moved, -(2**31), 2**31 - 1).astype(np.int32))


def _write(initialiser: Any, values: Array) -> None:
    initialiser.CopyFrom(numpy_helper.from_array(values, initialiser.name))


class _Graph:
    """What the DequantizeLinear nodes of a graph read."""

    def __init__(self, model: Any) -> None:
        self._initial = {one.name: one for one in model.graph.initializer}
        self._made = {output: node for node in model.graph.node for output in node.output}
        self._uses: dict[str, int] = {}
        for node in model.graph.node:
            for name in node.input:
                self._uses[name] = self._uses.get(name, 0) + 1

    def stored(self, node: Any, index: int, kind: type[Any]) -> _Stored | None:
        """The initialiser behind an input, symmetric and of type ``kind``; None when others read it too."""
        made = self._made.get(node.input[index]) if len(node.input) > index else None
        if made is None or made.op_type != "DequantizeLinear":
            return None
        values, scale = (self._initial.get(name) for name in made.input[:2])
        if values is None or scale is None or any(self._uses[name] > 1 for name in (made.output[0], made.input[0])):
            return None
        zero = self._initial.get(made.input[2]) if len(made.input) > 2 else None
        if numpy_helper.to_array(values).dtype != kind or (zero is not None and numpy_helper.to_array(zero).any()):
            return None
        return _Stored(values, numpy_helper.to_array(scale).astype(np.float64))
