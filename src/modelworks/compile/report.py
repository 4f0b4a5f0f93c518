"""What was measured, as JSON for programs, Markdown for people, and a plot."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from modelworks.compile.judge import Closeness, Score
from modelworks.compile.measure import Timing, best

REPORT, TABLE, PLOT, METRICS, MODEL = "compile.json", "report.md", "report.png", "metrics.json", "model.onnx"


@dataclass(frozen=True)
class Report:
    """Everything about one compilation. ``engine`` and ``precision`` are what was chosen."""

    model: str
    source: str
    engine: str
    precision: str
    threads: int
    cpu: str
    max_batch_size: int
    timings: Sequence[Timing]
    scores: Mapping[str, Score]
    sizes: Mapping[str, int]  # bytes
    closeness: Mapping[str, Closeness] = field(default_factory=dict)  # to the original's classes
    notes: Sequence[str] = field(default=())
    verdict: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def chosen(self) -> str:
        return f"{self.engine} {self.precision}"

    @property
    def baseline(self) -> str:
        """What the others are compared with: the eager model, or FP32 where ONNX is the source."""
        return self.timings[0].variant

    def speedup(self, variant: str) -> float:
        """Throughput at the best batch ÷ the baseline's at its best."""
        return best(self.timings, variant).throughput / best(self.timings, self.baseline).throughput

    def document(self) -> dict[str, Any]:
        return {
            **{key: getattr(self, key) for key in _PLAIN},
            "chosen": self.chosen,
            "rows": [
                {**asdict(one), "size": self.sizes.get(one.variant), "score": _value(self.scores.get(one.variant))}
                for one in self.timings
            ],
            "scores": {name: asdict(score) for name, score in self.scores.items()},
            "closeness": {name: asdict(near) for name, near in self.closeness.items()},
            "speedup": {name: round(self.speedup(name), 3) for name in self.variants},
            "notes": list(self.notes),
            "versions": dict(self.versions),
        }

    def metrics(self) -> dict[str, float]:
        """What the registry shows beside the version."""
        top = best(self.timings, self.chosen)
        found = {
            "p50_ms": next(t.p50_ms for t in self.timings if t.variant == self.chosen),
            "throughput": top.throughput,
            "best_batch_size": float(top.batch),
            "speedup": round(self.speedup(self.chosen), 3),
        }
        mark = self.scores.get(self.chosen)
        return found if mark is None else {**found, mark.metric: round(mark.value, 6)}

    @property
    def variants(self) -> list[str]:
        return list(dict.fromkeys(one.variant for one in self.timings))

    def markdown(self) -> str:
        metric = next((score.metric for score in self.scores.values()), "score")
        lines = [
            f"# {self.model}: {self.chosen}",
            "",
            f"From {self.source}; {self.threads} threads of {self.cpu}. {self.verdict}".rstrip(),
            "",
            f"| variant | batch | p50 ms | p99 ms | rows/s | × {self.baseline} | size | {metric} |",
            "|---|---:|---:|---:|---:|---:|---:|---:|",
        ]
        base = {one.batch: one.throughput for one in self.timings if one.variant == self.baseline}
        for one in self.timings:
            mark = self.scores.get(one.variant)
            lines.append(
                f"| {one.variant} | {one.batch} | {one.p50_ms:.2f} | {one.p99_ms:.2f} | {one.throughput:.0f} "
                f"| {one.throughput / base[one.batch]:.2f} | {_size(self.sizes.get(one.variant, 0))} "
                f"| {'' if mark is None else f'{mark.value:.4f}'} |"
            )
        near = [
            f"- {name}: the same best class as the original in {100 * one.top1:.2f} % of the rows, "
            f"{100 * one.top5:.1f} % of the five best; divergence {one.kl:.4f} nats"
            for name, one in self.closeness.items()
        ]
        return "\n".join([*lines, "", *near, *(f"- {note}" for note in self.notes)]).rstrip() + "\n"


def write(report: Report, folder: Path) -> None:
    """The report's files, beside the model."""
    (folder / REPORT).write_text(json.dumps(report.document(), indent=1) + "\n")
    (folder / TABLE).write_text(report.markdown())
    (folder / METRICS).write_text(json.dumps(report.metrics(), indent=1) + "\n")
    if importlib.util.find_spec("matplotlib") is not None:
        plot(report, folder / PLOT)


def plot(report: Report, path: Path) -> None:
    """Throughput and median latency by batch size, a line for each variant."""
    import matplotlib  # noqa: PLC0415 - optional, and slow to import

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name in report.variants:
        rows = [one for one in report.timings if one.variant == name]
        batches, width = [one.batch for one in rows], 2.5 if name == report.chosen else 1.2
        left.plot(batches, [one.throughput for one in rows], marker="o", label=name, linewidth=width)
        right.plot(batches, [one.p50_ms for one in rows], marker="o", label=name, linewidth=width)
    for axes, label in ((left, "rows/s"), (right, "ms a call, median")):
        axes.set_xlabel("batch size")
        axes.set_ylabel(label)
        axes.set_ylim(bottom=0)
        axes.set_xticks(sorted({one.batch for one in report.timings}))
        axes.grid(alpha=0.3)
    left.legend()
    figure.suptitle(f"{report.model}: {report.chosen}")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


_PLAIN = ("model", "source", "engine", "precision", "threads", "cpu", "max_batch_size", "verdict", "baseline")


def _value(score: Score | None) -> float | None:
    return None if score is None else round(score.value, 6)


def _size(count: int) -> str:
    return f"{count / 1024**2:.1f} MiB" if count >= 1024**2 else f"{count / 1024:.1f} KiB"
