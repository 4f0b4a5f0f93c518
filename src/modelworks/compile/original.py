"""The model as it was made: loaded, run by its own library, and exported to ONNX with a bounded batch."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from modelworks.compile.data import Array
from modelworks.compile.engines import Runner
from modelworks.compile.errors import CompileError, first_line
from modelworks.compile.source import Source

BATCH = "batch"
_MOST = 2**31 - 1


@dataclass(frozen=True)
class Original:
    """``export(path)`` writes the ONNX file; ``eager(names)`` runs the model on inputs of these names, in order."""

    export: Callable[[Path], None]
    eager: Callable[[Sequence[str], int], Runner] | None  # None: ONNX itself has nothing to compare with
    most: int  # rows in a batch


def load(source: Source, most: int) -> Original:
    """The model of ``source``, to be compiled for batches of 1 to ``most``. Raises CompileError."""
    if source.kind == "onnx":
        return _onnx(source.path, most)
    if source.kind == "sklearn":
        return _sklearn(source.path, most)
    return _torch(source, most)


def _onnx(path: Path, most: int) -> Original:
    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(str(path))
    except Exception as error:
        raise CompileError(f"{path.name} is not a valid ONNX graph: {first_line(error)}") from error
    return Original(lambda target: onnx.save(model, str(target)), None, most)


def _sklearn(path: Path, most: int) -> Original:
    try:
        import joblib  # noqa: PLC0415 - only where a model needs it
        import skl2onnx  # noqa: PLC0415
        from skl2onnx.common.data_types import FloatTensorType  # noqa: PLC0415
    except ImportError as error:
        raise CompileError(f"a scikit-learn model needs {error.name} in the environment") from None
    try:
        model = joblib.load(path)
    except Exception as error:
        raise CompileError(f"{path.name} cannot be loaded: {first_line(error)}") from error
    width = getattr(model, "n_features_in_", None)
    if width is None or not hasattr(model, "predict"):
        raise CompileError(f"{path.name} holds {type(model).__name__}, not a fitted estimator that predicts")

    def export(target: Path) -> None:
        options = {id(model): {"zipmap": False}} if hasattr(model, "predict_proba") else None
        try:
            graph = skl2onnx.to_onnx(model, initial_types=[("input", FloatTensorType([None, width]))], options=options)
        except NameError as error:
            raise CompileError(f"a part of the model has no converter to ONNX: {first_line(error)}") from error
        except Exception as error:
            kind = type(error).__name__
            said = "a part of the model has no converter to ONNX" if kind.startswith("Missing") else "the export failed"
            raise CompileError(f"{said}: {first_line(error)}") from error
        onnx.save(graph, str(target))

    def eager(names: Sequence[str], threads: int) -> Runner:
        def call(feeds: Mapping[str, Array]) -> Sequence[Array]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of arrays without the column names that it was fitted with
                rows = feeds[names[0]]
                found = [np.asarray(model.predict(rows))]
                if hasattr(model, "predict_proba"):
                    found.append(np.asarray(model.predict_proba(rows)))
            return found

        return Runner("eager", "fp32", call, path.stat().st_size)

    return Original(export, eager, most)


def _torch(source: Source, most: int) -> Original:
    try:
        import torch  # noqa: PLC0415 - large
    except ImportError:
        raise CompileError("a PyTorch model needs torch in the environment", "name one by --environment") from None
    if source.kind == "torch":
        program, module, size = _program(torch, source)
        bound = _bound(program)
    else:
        module, example = _checked(torch, source, *_call_entry(source))
        size = sum(t.numel() * t.element_size() for t in [*module.parameters(), *module.buffers()])
        program, bound = _exported(torch, module, example, most), most

    def export(target: Path) -> None:
        try:
            with quiet():
                torch.onnx.export(program, dynamo=True, optimize=True, external_data=False).save(str(target))
        except Exception as error:
            raise CompileError(f"the export to ONNX failed: {_cause(error)}") from error
        _name_batch(target, min(most, bound))

    def eager(names: Sequence[str], threads: int) -> Runner:
        torch.set_num_threads(threads)

        def call(feeds: Mapping[str, Array]) -> Sequence[Array]:
            with torch.inference_mode():
                answer = module(*(torch.from_numpy(feeds[name]) for name in names))
            return [tensor.numpy() for tensor in _flat(torch, answer)]

        return Runner("eager", "fp32", call, size)

    return Original(export, eager, min(most, bound))


def _program(torch: Any, source: Source) -> tuple[Any, Any, int]:
    """An exported program, the module it is, and its size in bytes. What it was exported with stays as it is."""
    try:
        with quiet():
            program = torch.export.load(str(source.path))
            module = program.module()
    except Exception as error:
        raise CompileError(f"{source.path.name} is not an exported program: {first_line(error)}") from error
    arguments, keywords = program.example_inputs or ((), {})
    if keywords:
        raise CompileError(f"{source.path.name} takes keyword arguments", "export it with positional ones")
    if not arguments or not all(isinstance(one, torch.Tensor) and one.ndim for one in arguments):
        raise CompileError(f"{source.path.name} takes something else than tensors whose first dimension is the batch")
    return program, module, source.path.stat().st_size


def _bound(program: Any) -> int:
    """The largest batch that a program was exported for; beyond any when it says nothing."""
    largest = [_MOST]
    for allowed in program.range_constraints.values():
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # an upper bound of infinity
            largest.append(int(allowed.upper))
    return min(largest)


def _checked(torch: Any, source: Source, module: Any, example: Any) -> tuple[Any, tuple[Any, ...]]:
    if not isinstance(module, torch.nn.Module):
        raise CompileError(f"{source.function} returned {type(module).__name__} where a torch.nn.Module belongs")
    inputs = tuple(example) if isinstance(example, list | tuple) else (example,)
    if not inputs or not all(isinstance(one, torch.Tensor) and one.ndim and len(one) for one in inputs):
        raise CompileError(f"the example of {source.function} must be tensors whose first dimension is the batch")
    return module.eval().cpu(), tuple(one.detach().cpu() for one in inputs)


def _call_entry(source: Source) -> tuple[Any, Any]:
    """What the user's function returns: the module, and an example input."""
    sys.path.insert(0, str(source.path.parent))
    try:
        spec = importlib.util.spec_from_file_location("modelworks_entry", source.path)
        assert spec is not None
        assert spec.loader is not None
        program = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = program
        spec.loader.exec_module(program)
        function = getattr(program, source.function, None)
        if function is None:
            raise CompileError(f"{source.path.name} has no function {source.function}")
        answer = function()
    except CompileError:
        raise
    except Exception as error:
        raise CompileError(f"{source.path.name}:{source.function} failed: {first_line(error)}") from error
    if not isinstance(answer, tuple) or len(answer) != 2:
        raise CompileError(f"{source.path.name}:{source.function} must return (module, example input)")
    return answer


def _exported(torch: Any, module: Any, example: tuple[Any, ...], most: int) -> Any:
    """A program for batches of 1 to ``most``."""
    if most == 1:
        return _export(torch, module, tuple(one[:1] for one in example), None)
    # An example of one row would be taken for a constant.
    inputs = tuple(torch.cat([one] * 2)[:2] for one in example)
    batch = torch.export.Dim(BATCH, min=1, max=most)
    return _export(torch, module, inputs, (tuple({0: batch} for _ in inputs)))


def _export(torch: Any, module: Any, inputs: tuple[Any, ...], shapes: Any) -> Any:
    try:
        with quiet():
            return torch.export.export(module, inputs, dynamic_shapes=shapes)
    except Exception as error:
        raise CompileError(
            f"the model cannot be traced: {_cause(error)}",
            "its Python must not depend on the values of tensors; the batch is the first dimension of every input",
        ) from error


def _flat(torch: Any, answer: Any) -> Iterator[Any]:
    if isinstance(answer, torch.Tensor):
        yield answer
    elif isinstance(answer, Mapping):
        for value in answer.values():
            yield from _flat(torch, value)
    elif isinstance(answer, list | tuple):
        for value in answer:
            yield from _flat(torch, value)


def _name_batch(path: Path, most: int) -> None:
    """The exporter numbers its symbols (``s85``): what users see is called ``batch``, and its bound is kept."""
    model = onnx.load(str(path))
    graph = model.graph
    symbols = {one.type.tensor_type.shape.dim[0].dim_param for one in graph.input} - {""}
    for value in [*graph.input, *graph.output, *graph.value_info]:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param in symbols:
                dimension.dim_param = BATCH
    onnx.helper.set_model_props(model, {"modelworks.max_batch_size": str(most)})
    onnx.save(model, str(path))


def _cause(error: BaseException) -> str:
    """The exporter wraps what went wrong several times; the innermost says it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the exporters' progress and warnings: the log is for what the user has to know."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
