"""``python -m tests.bench [part …]``: run the benchmarks and write build/bench.json.

All of them, or the parts that are named; a figure's name stands for its part.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from tests.bench import (
    bench_api,
    bench_checkpoint,
    bench_compile,
    bench_ddp,
    bench_gateway,
    bench_jobs,
    bench_latency,
    bench_node_loss,
    bench_platform,
    bench_quickstart,
    bench_ray,
    bench_scaling,
    bench_scheduler,
    bench_serving,
    bench_training,
)
from tests.bench.harness import RESULTS, Entry, Figure, Unmeasurable, merge

Part = tuple[Sequence[Figure], Callable[[], Sequence[Entry]]]
PARTS: dict[str, Part] = {
    "platform": (bench_platform.FIGURES, bench_platform.run),
    "quickstart": (bench_quickstart.FIGURES, bench_quickstart.run),
    "training": (bench_training.FIGURES, bench_training.run),
    "node_loss": (bench_node_loss.FIGURES, bench_node_loss.run),
    "jobs": (bench_jobs.FIGURES, bench_jobs.run),
    "ddp": (bench_ddp.FIGURES, bench_ddp.run),
    "ray": (bench_ray.FIGURES, bench_ray.run),
    "checkpoint": (bench_checkpoint.FIGURES, bench_checkpoint.run),
    "gateway": (bench_gateway.FIGURES, bench_gateway.run),
    "latency": (bench_latency.FIGURES, bench_latency.run),
    "serving": (bench_serving.FIGURES, bench_serving.run),
    "scaling": (bench_scaling.FIGURES, bench_scaling.run),
    "scheduler": (bench_scheduler.FIGURES, bench_scheduler.run),
    "compile": (bench_compile.FIGURES, bench_compile.run),
    "api": (bench_api.FIGURES, bench_api.run),
}


def main(names: Sequence[str]) -> int:
    part_of = {figure.name: part for part, (figures, _) in PARTS.items() for figure in figures}
    wanted = dict.fromkeys(part_of.get(name, name) for name in names)
    unknown = set(wanted) - set(PARTS)
    if unknown:
        print(f"unknown: {', '.join(sorted(unknown))}; there are: {', '.join(PARTS)}, and {', '.join(part_of)}")
        return 2
    for name in wanted or PARTS:
        figures, run = PARTS[name]
        try:
            entries = list(run())
        except Unmeasurable as reason:
            entries = [figure.missing(str(reason)) for figure in figures]
        merge(entries)
        for e in entries:
            sign = "≥" if e.better == "higher" else "≤"
            verdict = {True: "ok", False: "MISSED", None: "not measured"}[e.ok]
            value = "-" if e.value is None else f"{e.value:g}"
            print(
                f"{e.name:36} {value:>10} {e.unit:8} {sign} {e.bar:<8g} {verdict}  {e.context.get('reason', '')}",
                flush=True,
            )
    print(f"written to {RESULTS}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
