"""Graph optimisation and static INT8 quantisation with ONNX Runtime's tools."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from modelworks.compile import rounding
from modelworks.compile.data import Array, Samples
from modelworks.compile.errors import CompileError, first_line
from modelworks.compile.moments import Moments
from modelworks.compile.original import quiet

# Without one of these there is nothing that INT8 would make faster.
_HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# A part of the range that their input is quantised to: left out, that would be quantised with all that they cut off.
_CLIPS = ("Relu", "Clip")
# Cheap in floating point, and lossy in 8 bits: what they compute spans orders of magnitude.
_KEPT = ("Softmax", "LayerNormalization", "InstanceNormalization", "TopK", "CumSum", "Where", "BatchNormalization")
# What is kept of each row, for histograms and of the layers' inputs, is large.
MOST_ROWS = 128


@dataclass(frozen=True)
class Recipe:
    """One way to quantise. ``ends``: also the first and the last heavy node, which lose the most."""

    name: str
    method: str = "MinMax"
    ends: bool = True
    activations_only_heavy: bool = False


# In the order they are tried: the first that keeps the accuracy is taken, each is slower than the one before.
RECIPES = (
    Recipe("min-max"),
    Recipe("percentile", "Percentile"),
    Recipe("min-max, first and last layer in FP32", ends=False),
    Recipe("percentile, heavy layers only, first and last in FP32", "Percentile", False, True),
)


def optimise(source: Path, target: Path) -> str | None:
    """Constants folded, shapes inferred, nodes fused, in plain ONNX that any engine loads. Says what was left out."""
    note = _fuse(source, target)
    _flatten_biases(target)
    return note


def _flatten_biases(path: Path) -> None:
    """A Gemm's bias of [1, n] as [n], which is the same: the quantiser takes only that."""
    model = onnx.load(str(path))
    biases = {node.input[2] for node in model.graph.node if node.op_type == "Gemm" and len(node.input) > 2}
    for weight in model.graph.initializer:
        if weight.name in biases and len(weight.dims) == 2 and weight.dims[0] == 1:
            del weight.dims[0]
    onnx.save(model, str(path))


def _fuse(source: Path, target: Path) -> str | None:
    try:
        with quiet():
            quant_pre_process(str(source), str(target))
    except Exception:
        # Symbolic shape inference does not know every operator; the rest does not need it.
        try:
            with quiet():
                quant_pre_process(str(source), str(target), skip_symbolic_shape=True, skip_onnx_shape=True)
        except Exception as error:
            onnx.save(onnx.load(str(source)), str(target))
            return f"the graph could not be optimised: {first_line(error)}"
        return "shapes inside the graph could not all be inferred"
    return None


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(str(path), load_external_data=False).graph.node)


def check_quantisable(path: Path) -> None:
    """Raises CompileError when no node of the graph gains by INT8."""
    found = operators(path)
    if not any(found[name] for name in _HEAVY):
        told = ", ".join(sorted(found)[:6]) or "nothing"
        raise CompileError(
            f"there is nothing to quantise: INT8 is for {', '.join(_HEAVY)}, and the graph holds {told}",
            "use --precision fp32",
        )


def quantise(
    source: Path, target: Path, samples: Samples, recipe: Recipe, batch: int, moments: Mapping[str, Moments]
) -> None:
    """Static INT8 in QDQ form: weights signed and per channel, activations unsigned. Raises CompileError.

    Weights of the layers that ``moments`` knows the inputs of are rounded for those.
    """
    graph = onnx.load(str(source), load_external_data=False).graph
    heavy = [node.name for node in graph.node if node.op_type in _HEAVY]
    kept = [node.name for node in graph.node if node.op_type in _KEPT]
    if not recipe.ends:
        kept += [heavy[0], heavy[-1]]
    method = getattr(CalibrationMethod, recipe.method)
    rows = samples if recipe.method == "MinMax" else samples.rows(slice(0, MOST_ROWS))
    try:
        with quiet():
            quantize_static(
                str(source),
                str(target),
                _Reader(rows, batch),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*_HEAVY, *_CLIPS] if recipe.activations_only_heavy else None,
                per_channel=True,
                # Without VNNI two products of 8 bits are added in 16: a bit less of the weights keeps them from
                # overflowing.
                reduce_range=not has_vnni(),
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                nodes_to_exclude=kept,
                calibrate_method=method,
            )
            rounding.refine(source, target, moments)
    except Exception as error:
        raise CompileError(f"the quantisation failed: {first_line(error)}") from error


def has_vnni() -> bool:
    """Whether 8-bit products are summed in 32 bits: AVX512-VNNI or AVX-VNNI, and every ARM."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return True
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "avx512_vnni" in flags or "avx_vnni" in flags


class _Reader(CalibrationDataReader):  # type: ignore[misc]
    """Whole batches of the samples; a graph of a fixed batch takes no other."""

    def __init__(self, samples: Samples, batch: int) -> None:
        self._samples, self._batch = samples, batch
        self._feeds = self._all()

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self._feeds, None)

    def _all(self) -> Iterator[Mapping[str, Array]]:
        yield from self._samples.batches(self._batch)
