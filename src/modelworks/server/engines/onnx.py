"""ONNX models on ONNX Runtime: on the CPU, on CUDA, and on TensorRT where that is asked for."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime

from modelworks.server.engines.base import find_file, memory, same_rows, zeros
from modelworks.server.processors.tensors import Array, TensorSpec, dtype_of_onnx

_TENSORRT = "TensorrtExecutionProvider"
_CPU = "CPUExecutionProvider"
# A model of so few bytes may be so quick that handing its work to other threads costs more than it saves.
_SMALL = 1 << 20
_QUICK = 0.002
# What the memory must be times the weights for a second session: each has its own, packed for its kernels.
_ROOM = 8


class OnnxEngine:
    """One session that all threads share; ONNX Runtime parallelises inside a call over the run's CPUs.

    A second one computes on its caller's thread alone, for calls side by side, where there is memory for its weights.
    """

    columns: tuple[str, ...] = ()

    def __init__(self, directory: Path, *, providers: Sequence[str] | None = None, threads: int | None = None) -> None:
        path = find_file(directory, ("model.onnx",), (".onnx",), ".onnx")
        available = onnxruntime.get_available_providers()
        wanted = providers or [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in available]
        cpus = threads or len(os.sched_getaffinity(0))
        alone = cpus > 1 and path.stat().st_size <= _SMALL and not _external(path)
        self._session = _open(path, wanted, 1 if alone else cpus)
        self.name = path.stem
        self.inputs = tuple(_spec(item) for item in self._session.get_inputs())
        self.outputs = tuple(_spec(item) for item in self._session.get_outputs())
        self._names = [spec.name for spec in self.outputs]
        self._beside = None
        quick = alone and self._quick()
        if alone and not quick:
            self._beside, self._session = self._session, _open(path, wanted, cpus)
        self.platform = "onnxruntime_onnx"
        self.max_rows = None if self._batched() else 1
        room = cpus > 1 and list(wanted) == [_CPU] and _weights(path) * _ROOM <= memory()
        if quick or not room:
            self._beside = None
        elif self._beside is None:
            self._beside = _open(path, wanted, 1)
        self.lanes = cpus if self._beside is not None else 1

    @property
    def providers(self) -> list[str]:
        found: list[str] = self._session.get_providers()
        return found

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        return dict(zip(self._names, self._session.run(self._names, feeds), strict=True))

    def run_beside(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        session = self._beside or self._session
        return dict(zip(self._names, session.run(self._names, feeds), strict=True))

    def _quick(self) -> bool:
        feeds = zeros(self.inputs, 1)
        if feeds is None:
            return False
        self.run(feeds)
        began = time.perf_counter()
        self.run(feeds)
        return time.perf_counter() - began < _QUICK

    def _batched(self) -> bool:
        """Open first dimensions, and where they have names, one name for all."""
        names = {item.shape[0] for item in self._session.get_inputs() if item.shape and isinstance(item.shape[0], str)}
        return len(names) <= 1 and same_rows(self.inputs, self.outputs)


def tensorrt(directory: Path) -> OnnxEngine:
    """Raises ImportError when ONNX Runtime has no TensorRT here, or has it and cannot load it."""
    if _TENSORRT not in onnxruntime.get_available_providers():
        raise ImportError(
            f"ONNX Runtime {onnxruntime.__version__} of this environment has no TensorRT provider (it has "
            f"{', '.join(onnxruntime.get_available_providers())}); the environment needs onnxruntime-gpu in place of "
            "onnxruntime, and tensorrt"
        )
    engine = OnnxEngine(directory, providers=[_TENSORRT, "CUDAExecutionProvider", "CPUExecutionProvider"])
    # ONNX Runtime falls back in silence to the next provider when a library is missing.
    if _TENSORRT not in engine.providers:
        raise ImportError(
            "ONNX Runtime cannot load its TensorRT provider: the package tensorrt, or the driver, is missing"
        )
    engine.platform = "onnxruntime_tensorrt"
    return engine


def _open(path: Path, providers: Sequence[str], threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Between two calls the threads would go on to look for work for tens of milliseconds, on CPUs that others need.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(str(path), sess_options=options, providers=list(providers))


def _external(path: Path) -> bool:
    """Whether weights may lie beside the file."""
    return any(other.stat().st_size > _SMALL for other in path.parent.iterdir() if other.is_file())


def _weights(path: Path) -> int:
    """Bytes of the model with what lies beside it."""
    return sum(other.stat().st_size for other in path.parent.iterdir() if other.is_file())


def _spec(item: Any) -> TensorSpec:
    if not str(item.type).startswith("tensor("):
        return TensorSpec(item.name, "", None)
    shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in item.shape)
    return TensorSpec(item.name, dtype_of_onnx(item.type), shape)
