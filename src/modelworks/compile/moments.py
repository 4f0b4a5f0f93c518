"""What goes into the layers of a model: mean and covariance of the inputs that their weights are multiplied with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from modelworks.compile.data import Array
from modelworks.compile.engines import session

_KINDS = ("Conv", "Gemm", "MatMul")
_POSITIONS = 64  # of one image, at random: neighbours tell much the same
_MOST_BYTES = 1 << 30  # of all covariances


class Moments:
    """Of one layer's inputs, group by group: sums over the samples that were seen."""

    def __init__(self) -> None:
        self._count = 0
        # About the mean of the first rows: of inputs far from zero the differences would be lost in their squares.
        self._origin: Any = None
        self._sum: Any = 0.0
        self._products: Any = 0.0

    def add(self, rows: Array) -> None:
        """``rows`` [groups, samples, inputs]."""
        if self._origin is None:
            self._origin = rows.mean(axis=1, keepdims=True)
        rows = rows - self._origin
        self._count += rows.shape[1]
        self._sum = self._sum + rows.sum(axis=1, dtype=np.float64)
        self._products = self._products + (rows.transpose(0, 2, 1) @ rows).astype(np.float64)

    @property
    def mean(self) -> Array:
        """[groups, inputs]"""
        found: Array = self._origin[:, 0].astype(np.float64) + self._sum / self._count
        return found

    def second(self, centred: bool) -> Array:
        """[groups, inputs, inputs]: the covariance when ``centred``, else the mean products."""
        off, mean = self._sum / self._count, self.mean
        found: Array = self._products / self._count - off[:, :, None] * off[:, None, :]
        return found if centred else found + mean[:, :, None] * mean[:, None, :]


def gather(path: Path, batches: Iterable[Mapping[str, Array]], threads: int) -> dict[str, Moments]:
    """By the names of the layers of an ONNX file, which is run on ``batches``.

    Left out are layers of other forms than 2-D convolutions and products with a stored matrix, and, where all together
    would need more than 1 GiB, the widest.
    """
    model = onnx.load(str(path))
    weights = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    layers = {
        node.name: node
        for node in model.graph.node
        if node.op_type in _KINDS and node.input[1] in weights and known(node, weights[node.input[1]])
    }
    shapes = {name: weights[node.input[1]].shape for name, node in layers.items()}
    room = _MOST_BYTES
    for name in sorted(layers, key=lambda name: _bytes(layers[name], shapes[name])):
        room -= _bytes(layers[name], shapes[name])
        if room < 0:
            del layers[name]
    have = {one.name for one in (*model.graph.input, *model.graph.output)}
    inner = sorted({node.input[0] for node in layers.values()} - have)
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in inner)
    random, found = np.random.default_rng(0), {name: Moments() for name in layers}
    with TemporaryDirectory(prefix="mw-compile-") as scratch:
        watched = Path(scratch) / "watched.onnx"
        onnx.save(model, str(watched))
        opened = session(watched, threads)
        names = [one.name for one in opened.get_outputs()]
        for feeds in batches:
            values = {**dict(zip(names, opened.run(names, dict(feeds)), strict=True)), **feeds}
            for name, node in layers.items():
                found[name].add(patches(node, values[node.input[0]], shapes[name], random))
    return found


def known(node: Any, weight: Array) -> bool:
    """Whether :func:`patches` and :func:`as_rows` understand a node with this weight."""
    options = attributes(node)
    if weight.dtype != np.float32:
        return False
    if node.op_type == "Conv":
        return weight.ndim == 4 and options.get("auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
    if node.op_type == "Gemm":
        return not options.get("transA") and options.get("alpha", 1.0) == 1.0 and options.get("beta", 1.0) == 1.0
    return weight.ndim == 2


def patches(
    node: Any, value: Array, shape: tuple[int, ...], random: np.random.Generator, most: int = _POSITIONS
) -> Array:
    """What outputs of a layer are computed of: [groups, samples, inputs], in the order of its weights' inputs.

    ``value`` is the layer's input and ``shape`` its weight's. Of a convolution's positions ``most`` are drawn.
    """
    if node.op_type != "Conv":
        return value.reshape(1, -1, value.shape[-1])
    options = attributes(node)
    groups, (height, width) = options.get("group", 1), shape[2:]
    (down, across), (tall, wide) = options.get("strides", [1, 1]), options.get("dilations", [1, 1])
    top, left, bottom, right = options.get("pads", [0, 0, 0, 0])
    padded = np.pad(value, ((0, 0), (0, 0), (top, bottom), (left, right))) if top + left + bottom + right else value
    rows = (padded.shape[2] - tall * (height - 1) - 1) // down + 1
    columns = (padded.shape[3] - wide * (width - 1) - 1) // across + 1
    chosen = random.permutation(rows * columns)[:most]
    first = chosen // columns * down * padded.shape[3] + chosen % columns * across
    images, channels, count = len(value), value.shape[1], height * width
    flat = padded.reshape(images, channels, -1)
    found = np.empty((groups, images, len(chosen), channels // groups, count), dtype=np.float32)
    for tap in range(count):
        i, j = divmod(tap, width)
        seen = flat.take(first + i * tall * padded.shape[3] + j * wide, axis=2)
        found[..., tap] = seen.reshape(images, groups, channels // groups, -1).transpose(1, 0, 3, 2)
    drawn: Array = found.reshape(groups, images * len(chosen), -1)
    return drawn


def as_rows(node: Any, weight: Array) -> Array:
    """A layer's weight as [outputs, inputs]."""
    if node.op_type == "Conv":
        return weight.reshape(len(weight), -1)
    rows: Array = weight if attributes(node).get("transB") else weight.T
    return rows


def from_rows(node: Any, rows: Array, shape: tuple[int, ...]) -> Array:
    """The way back from :func:`as_rows`, to the weight's shape."""
    if node.op_type == "Conv" or attributes(node).get("transB"):
        return rows.reshape(shape)
    turned: Array = np.ascontiguousarray(rows.reshape(shape[1], shape[0]).T)
    return turned


def attributes(node: Any) -> dict[str, Any]:
    return {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}


def _bytes(node: Any, shape: tuple[int, ...]) -> int:
    if node.op_type == "Conv":
        return int(8 * attributes(node).get("group", 1) * np.prod(shape[1:]) ** 2)
    return int(8 * shape[1 if attributes(node).get("transB") else 0] ** 2)
