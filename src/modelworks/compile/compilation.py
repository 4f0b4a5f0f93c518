"""One compilation from the model's files to ``model.onnx`` and its report."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Literal

from modelworks.compile import data, engines, original, quantize, report, source
from modelworks.compile.data import Input, Split
from modelworks.compile.engines import ONNXRUNTIME, OPENVINO, Runner
from modelworks.compile.errors import CompileError, first_line
from modelworks.compile.judge import ENOUGH, Closeness, Score, Task, Verdict, closeness, judge, score, task_of
from modelworks.compile.measure import ROUNDS, best, measure
from modelworks.compile.moments import Moments, gather
from modelworks.compile.report import MODEL, Report

Engines = Literal["onnx", "openvino", "auto"]
Precision = Literal["fp32", "int8", "auto"]


@dataclass(frozen=True)
class Request:
    """What to compile, and to what. ``max_batch`` bounds the batch dimension; rows of ``batches`` are measured."""

    model: Path
    output: Path
    name: str = "model"
    to: Engines = "auto"
    precision: Precision = "fp32"
    calibrate: Path | None = None
    labels: Path | None = None
    entry: str | None = None
    task: Task | None = None
    force: bool = False
    threads: int = 0  # 0: all that the job may use
    batches: tuple[int, ...] = (1, 2, 4, 8)
    max_batch: int = 64
    rounds: int = ROUNDS


def compile_model(request: Request, say: Callable[[str], None] = print) -> Report:
    """Write ``model.onnx`` and the report to ``request.output``. Raises CompileError, and then writes no model."""
    if request.precision == "int8" and request.calibrate is None:
        raise CompileError("INT8 needs a sample of real inputs", "give one by --calibrate")
    with TemporaryDirectory(prefix="mw-compile-") as scratch:
        return _Compilation(request, Path(scratch), say).run()


class _Compilation:
    def __init__(self, request: Request, scratch: Path, say: Callable[[str], None]) -> None:
        self.request, self.scratch, self.say = request, scratch, say
        self.threads = request.threads or len(os.sched_getaffinity(0))
        self.notes: list[str] = []
        self.scores: dict[str, Score] = {}
        self.closeness: dict[str, Closeness] = {}
        self.reference: list[data.Array] = []
        self.task: Task = request.task or "classification"

    def run(self) -> Report:
        request = self.request
        found = source.find(request.model, request.entry)
        self.say(f"compiling {found}")
        made = original.load(found, request.max_batch)
        exported, fp32 = self.scratch / "exported.onnx", self.scratch / "fp32.onnx"
        made.export(exported)
        inputs = engines.inputs_of(exported)
        most = _batch(inputs) or made.most
        split = self._samples(inputs)
        self._note(quantize.optimise(exported, fp32))
        self.say(f"exported: {len(inputs)} inputs, batches {'of' if _batch(inputs) else 'up to'} {most}")

        names = [one.name for one in inputs]
        wanted = [name for name in _engines(request.to) if self._loads(name, fp32)]
        compiled = [engines.open_model(name, fp32, "fp32", self.threads) for name in wanted]
        eager = made.eager(names, self.threads) if made.eager is not None else None
        reference = eager or engines.open_model(ONNXRUNTIME, exported, "fp32", self.threads)
        step = _batch(inputs) or min(8, most)
        self._judge_by(reference, split, step)
        for runner in compiled:
            self._check(runner, split, step)
        int8 = self._int8(fp32, wanted, split, step) if request.precision != "fp32" else []

        runners = [*([eager] if eager else []), *compiled, *int8]
        fixed = _batch(inputs)
        batches = [fixed] if fixed else [size for size in request.batches if size <= most] or [most]
        if fixed:
            self.notes.append(
                f"the model was made for batches of exactly {fixed}; export it with a free first dimension"
            )
        self.say(f"measuring {len(runners)} variants at batches of {', '.join(map(str, batches))}")
        timings = measure(runners, split.evaluation, batches, request.rounds)
        choice = int8 if request.precision == "int8" else [*compiled, *int8]
        chosen = max(choice, key=lambda one: best(timings, one.name).throughput)
        if chosen.engine == OPENVINO:
            self._note("openvino measured faster: serve it in an environment that holds it, such as openvino")
        result = Report(
            model=request.name,
            source=str(found),
            engine=chosen.engine,
            precision=chosen.precision,
            threads=self.threads,
            cpu=_cpu(),
            max_batch_size=most,
            timings=timings,
            scores=self.scores,
            closeness=self.closeness,
            sizes={one.name: one.size for one in runners},
            notes=self.notes,
            verdict=self.verdict,
            versions=_versions(),
        )
        request.output.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.scratch / f"{chosen.precision}.onnx", request.output / MODEL)
        report.write(result, request.output)
        self.say(result.markdown())
        return result

    verdict = ""
    _moments: Mapping[str, Moments] = MappingProxyType({})

    def _note(self, text: str | None) -> None:
        if text:
            self.notes.append(text)
            self.say(f"note: {text}")

    def _samples(self, inputs: Sequence[Input]) -> Split:
        request = self.request
        if request.calibrate is None:
            made = data.synthetic(inputs)
            self._note("no data was given: measured on noise, and agreement is on noise too")
            return Split(made, made, False)
        bound = data.bind(data.load(request.calibrate, request.labels), inputs)
        split = data.split(bound)
        if not split.held_out:
            self._note(f"{len(bound)} samples are few: calibrated on and judged by the same")
        if len(split.evaluation) < ENOUGH:
            self._note(
                f"judged by {len(split.evaluation)} samples, of which one is {100 / len(split.evaluation):.1f} points"
            )
        if bound.labels is None:
            self._note("no labels were given: judged by agreement with the eager model")
        return split

    def _loads(self, engine: str, path: Path) -> bool:
        """Whether the engine takes the graph; one that was asked for by name must."""
        try:
            engines.open_model(engine, path, "fp32", 1)
        except CompileError as error:
            if self.request.to != "auto" or engine == ONNXRUNTIME:
                raise
            self._note(error.detail)
            return False
        return True

    def _judge_by(self, reference: Runner, split: Split, step: int) -> None:
        self.reference = engines.in_batches(reference, split.evaluation.inputs, step)
        self.task = self.request.task or task_of(self.reference)
        self.scores["eager" if reference.engine == "eager" else "original"] = self._score(self.reference, split)

    def _score(self, outputs: Sequence[data.Array], split: Split) -> Score:
        return score(outputs, self.reference, split.evaluation.labels, self.task)

    def _verdict(self, runner: Runner, split: Split, step: int) -> Verdict:
        outputs = engines.in_batches(runner, split.evaluation.inputs, step)
        if outputs[0].shape != self.reference[0].shape:
            shapes = [list(one[0].shape) for one in (outputs, self.reference)]
            raise CompileError(f"{runner.name} answers with {shapes[0]} where the original has {shapes[1]}")
        mark = self._score(outputs, split)
        self.scores[runner.name] = mark
        near = closeness(outputs, self.reference) if self.task == "classification" else None
        if near is not None:
            self.closeness[runner.name] = near
        return judge(next(iter(self.scores.values())), mark, runner.name)

    def _check(self, runner: Runner, split: Split, step: int) -> None:
        verdict = self._verdict(runner, split, step)
        if not verdict.ok and not self.request.force:
            raise CompileError(f"the export computes something else: {verdict.told}", "--force keeps it")

    def _int8(self, fp32: Path, wanted: Sequence[str], split: Split, step: int) -> list[Runner]:
        """The INT8 variants that may be used: of the first recipe that keeps the accuracy on every engine."""
        target = self.scratch / "int8.onnx"
        try:
            quantize.check_quantisable(fp32)
        except CompileError as error:
            if self.request.precision == "int8":
                raise
            self._note(error.detail)
            return []
        self._moments = self._inputs_of_layers(fp32, split, step)
        tried: list[tuple[float, str, quantize.Recipe]] = []
        for recipe in quantize.RECIPES:
            runners, worst = self._recipe(recipe, fp32, target, wanted, split, step)
            self.say(f"INT8, {recipe.name}: {worst.told}")
            if worst.ok:
                self.verdict = f"INT8 by {recipe.name}: {worst.told}."
                return runners
            tried.append((worst.lost, worst.told, recipe))
        _, told, recipe = min(tried, key=lambda one: one[0])
        if self.request.force:
            runners, worst = self._recipe(recipe, fp32, target, wanted, split, step)
            self.verdict = f"Forced: {worst.told}."
            return runners
        for name in [name for name in self.scores if name.endswith(" int8")]:
            del self.scores[name]
            self.closeness.pop(name, None)
        if self.request.precision == "int8":
            raise CompileError(f"INT8 is refused: {told}", "--force keeps it, --precision auto keeps FP32")
        self.verdict = f"INT8 is refused: {told}; FP32 is kept."
        self._note(self.verdict)
        return []

    def _inputs_of_layers(self, fp32: Path, split: Split, step: int) -> Mapping[str, Moments]:
        rows = split.calibration.rows(slice(0, quantize.MOST_ROWS))
        try:
            return gather(fp32, rows.batches(step), self.threads)
        except Exception as error:  # what ONNX Runtime raises is private, and nothing that INT8 cannot do without
            self._note(f"the inputs of the layers cannot be seen, weights are rounded to nearest: {first_line(error)}")
            return {}

    def _recipe(
        self, recipe: quantize.Recipe, fp32: Path, target: Path, wanted: Sequence[str], split: Split, step: int
    ) -> tuple[list[Runner], Verdict]:
        quantize.quantise(fp32, target, split.calibration, recipe, step, self._moments)
        runners = [engines.open_model(name, target, "int8", self.threads) for name in wanted]
        return runners, max((self._verdict(one, split, step) for one in runners), key=lambda verdict: verdict.lost)


def _engines(to: Engines) -> list[str]:
    if to == "openvino" and not engines.installed(OPENVINO):
        raise CompileError("openvino is not installed in the environment", "use --to onnx, or an environment with it")
    if to == "auto":
        return [ONNXRUNTIME, *([OPENVINO] if engines.installed(OPENVINO) else [])]
    return [ONNXRUNTIME if to == "onnx" else OPENVINO]


def _batch(inputs: Sequence[Input]) -> int | None:
    """The only batch size the graph takes; None when it is free."""
    sizes = {one.shape[0] for one in inputs if one.shape}
    fixed = sizes - {None}
    return next(iter(fixed)) if fixed else None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("onnx", "onnxruntime", "openvino", "torch", "scikit-learn", "skl2onnx", "numpy"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def _cpu() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()
