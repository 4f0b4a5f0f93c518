"""PyTorch's exported programs (``torch.export.save``, ``.pt2``)."""

from __future__ import annotations

import importlib
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelworks.server.engines.base import find_file, missing, same_rows
from modelworks.server.processors.tensors import Array, TensorSpec

_REMEDY = (
    "save an exported program instead: torch.export.save(torch.export.export(model, example, dynamic_shapes=…), "
    '"model.pt2")'
)


class TorchEngine:
    """Runs under ``inference_mode`` with all CPUs of the run; on CUDA where there is one."""

    platform = "pytorch_export"
    columns: tuple[str, ...] = ()

    def __init__(self, directory: Path) -> None:
        path = _find(directory)
        try:
            self._torch: Any = importlib.import_module("torch")
        except ImportError:
            raise missing("torch", "name one that does, such as pytorch") from None
        torch = self._torch
        if not zipfile.is_zipfile(path):
            raise ValueError(f"{path.name} is not an exported program of PyTorch: it is no zip file; {_REMEDY}")
        try:
            program = torch.export.load(path)
        except Exception as error:  # whatever torch says of a file that is none
            raise ValueError(
                f"{path.name} is not an exported program of PyTorch {torch.__version__}: {error}"
            ) from None
        torch.set_num_threads(len(os.sched_getaffinity(0)))
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self.name = path.stem
        self._module = program.module()
        if self._device == "cuda":
            self._module = self._module.to("cuda")
        signature = program.graph_signature
        values = {node.name: node.meta.get("val") for node in program.graph.nodes}
        self.inputs = tuple(_spec(name, values[name]) for name in signature.user_inputs)
        given = [name for name in signature.user_outputs if isinstance(name, str)]
        names = ("output",) if len(given) == 1 else tuple(f"output_{number}" for number in range(len(given)))
        self.outputs = tuple(_spec(name, values[of]) for name, of in zip(names, given, strict=True))
        self._flatten = importlib.import_module("torch.utils._pytree").tree_leaves
        self.max_rows = _limit(program, values, self.inputs, self.outputs)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Any]:
        torch = self._torch
        with torch.inference_mode():
            # A copy where the array may not be written: torch knows no read-only memory.
            tensors = [
                torch.tensor(feeds[spec.name]) if not feeds[spec.name].flags.writeable
                else torch.from_numpy(feeds[spec.name])
                for spec in self.inputs
            ]  # fmt: skip
            results = self._flatten(self._module(*(tensor.to(self._device) for tensor in tensors)))
            arrays = [result.to("cpu").float().numpy() if result.dtype == torch.bfloat16 else result.to("cpu").numpy()
                      for result in results]  # fmt: skip
        return dict(zip((spec.name for spec in self.outputs), arrays, strict=False))


def _find(directory: Path) -> Path:
    try:
        return find_file(directory, ("model.pt2",), (".pt2",), ".pt2")
    except FileNotFoundError:
        others = find_other(directory)
        if others is None:
            raise
        kind = "TorchScript" if _is_script(others) else "a pickled checkpoint, whose code is not in it"
        raise FileNotFoundError(f"{others.name} is {kind}; {_REMEDY}") from None


def find_other(directory: Path) -> Path | None:
    """A file that torch wrote in another way."""
    if not directory.is_dir():
        return None
    return next((path for path in sorted(directory.rglob("*")) if path.suffix in (".pt", ".pth", ".ts")), None)


def _is_script(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name or name.endswith("constants.pkl") for name in archive.namelist())


def _spec(name: str, value: Any) -> TensorSpec:
    if value is None or not hasattr(value, "shape"):
        return TensorSpec(name, "", None)
    dtype = str(value.dtype).removeprefix("torch.")
    return TensorSpec(name, dtype, tuple(size if isinstance(size, int) else None for size in value.shape))


def _limit(
    program: Any, values: Mapping[str, Any], inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> int | None:
    """What the first dimension may be at most, where it is the same of all inputs; 1 where it is not a batch."""
    if not same_rows(inputs, outputs):
        return 1
    symbols = {str(values[spec.name].shape[0]) for spec in inputs if spec.shape}
    if len(symbols) != 1:
        return 1
    for symbol, bounds in program.range_constraints.items():
        if str(symbol) in symbols:
            upper = bounds.upper
            return int(upper) if upper.is_number and int(upper) < 1 << 20 else None
    return None
