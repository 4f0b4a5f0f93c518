"""PyTorch models through the compiler's own process: exported programs, functions that build a module, what fails."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.timeout(300)

BUILD = """
    import torch

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.layers = torch.nn.Sequential(
                torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(8 * 36, 10))
        def forward(self, image):
            return self.layers(image)

    class Branches(torch.nn.Module):
        def forward(self, x):
            return x * 2 if x.sum() > 0 else x

    def net():
        return Net(), torch.zeros(1, 1, 8, 8)

    def branches():
        return Branches(), torch.zeros(1, 4)

    def nothing():
        return None
    """


def compiled(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model" / "build.py").write_text(textwrap.dedent(BUILD))
    command = [sys.executable, "-m", "modelworks.compile", str(tmp_path / "model"), str(tmp_path / "out")]
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=280, check=False)


def test_a_function_that_builds_a_module_becomes_onnx_of_any_batch(tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((200, 1, 8, 8)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    done = compiled(
        tmp_path, "--entry", "build.py:net", "--precision", "int8", "--calibrate", str(tmp_path / "images.npy"),
        "--max-batch", "4", "--to", "onnx", "--force",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "compile.json").read_text())
    assert (report["chosen"], report["max_batch_size"]) == ("onnxruntime int8", 4)
    assert {row["batch"] for row in report["rows"]} == {1, 2, 4}
    assert report["scores"]["onnxruntime fp32"] == {"metric": "agreement", "value": 1.0, "samples": 100}
    session = onnxruntime.InferenceSession(str(tmp_path / "out" / "model.onnx"))
    (given,) = session.get_inputs()
    assert (given.name, given.shape) == ("image", ["batch", 1, 8, 8])
    for rows in (1, 3):
        assert session.run(None, {"image": images[:rows]})[0].shape == (rows, 10)


def test_an_exported_program_keeps_the_batch_it_was_exported_for(tmp_path: Path) -> None:
    program = torch.export.export(torch.nn.Linear(4, 3).eval(), (torch.zeros(2, 4),))
    (tmp_path / "model").mkdir()
    torch.export.save(program, str(tmp_path / "model" / "model.pt2"))
    done = compiled(tmp_path, "--to", "onnx")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "compile.json").read_text())
    assert {row["batch"] for row in report["rows"]} == {2}
    assert any("exactly 2" in note for note in report["notes"])


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("build.py:branches", "the model cannot be traced"),
        ("build.py:nothing", "must return (module, example input)"),
        ("build.py:missing", "has no function missing"),
        ("other.py:net", "other.py is not among"),
    ],
)
def test_what_cannot_be_exported_is_one_line(tmp_path: Path, entry: str, said: str) -> None:
    done = compiled(tmp_path, "--entry", entry)
    assert done.returncode == 1
    assert said in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_weights_alone_are_no_program(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    torch.save({"weight": torch.zeros(1)}, str(tmp_path / "model" / "weights.pt"))
    done = compiled(tmp_path)
    assert done.returncode == 1
    assert "holds weights without the program" in done.stderr
