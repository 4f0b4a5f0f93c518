"""A load test as a table with bars in the terminal, and as a PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from modelworks.cli.output import Output
from modelworks.cli.pictures import save
from modelworks.sdk.load.knee import Knee
from modelworks.sdk.load.outcome import Outcome

_WIDTH = 20
_EIGHTHS = " ▏▎▍▌▋▊▉"


def draw(out: Output, outcomes: Sequence[Outcome], knee: Knee) -> None:
    """A row a step. The bar is p99 on a logarithmic scale, from the quickest step's p50 to the slowest one's p99."""
    lows = [value for one in outcomes if (value := one.latency(0.5))]
    highs = [value for one in outcomes if (value := one.latency(0.99))]
    low, high = min(lows, default=1.0), max(highs, default=1.0)
    rows = [
        (
            f"{one.rate:g}",
            f"{one.goodput:.1f}",
            *(_ms(one.latency(share)) for share in (0.5, 0.95, 0.99)),
            one.errors or "",
            one.limited or "",
            bar(one.latency(0.99), low, high) + (" ◀ knee" if one.rate == knee.rate and knee.reached else ""),
        )
        for one in outcomes
    ]
    columns = ("RATE/S", "GOOD/S", "P50 MS", "P95 MS", "P99 MS", "ERRORS", "429")
    out.table((*columns, "P99"), rows, right=columns)


def bar(value: float | None, low: float, high: float, width: int = _WIDTH) -> str:
    """A bar of at most ``width`` characters; one eighth at least, so that the quickest is seen."""
    if not value:
        return ""
    span = math.log(high / low) if high > low else 0.0
    share = min(1.0, max(0.0, math.log(value / low) / span)) if span else 1.0
    whole, rest = divmod(max(1, round(share * width * 8)), 8)
    return "█" * whole + (_EIGHTHS[rest] if rest else "")


def plot(outcomes: Sequence[Outcome], knee: Knee, name: str, path: Path) -> None:
    """Offered against answered, and latencies, with the knee marked."""
    import matplotlib  # noqa: PLC0415 - optional, and slow to import

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    rates = [one.rate for one in outcomes]
    left.plot(rates, rates, linestyle=":", color="grey", label="offered")
    left.plot(rates, [one.goodput for one in outcomes], marker="o", label="answered well")
    left.plot(rates, [one.limited / one.duration for one in outcomes], marker=".", label="429")
    left.plot(rates, [one.errors / one.duration for one in outcomes], marker=".", label="errors")
    left.set_ylabel("answers/s")
    for share, label in ((0.5, "p50"), (0.95, "p95"), (0.99, "p99")):
        right.plot(rates, [1000 * (one.latency(share) or math.nan) for one in outcomes], marker="o", label=label)
    right.set_yscale("log")
    right.set_ylabel("ms")
    for axes in (left, right):
        axes.set_xlabel("offered requests/s")
        axes.grid(alpha=0.3)
        if knee.rate is not None and knee.reached:
            axes.axvline(knee.rate, color="red", linestyle="--", label=f"knee {knee.rate:g}/s")
        axes.legend()
    figure.suptitle(name)
    save(figure, path)
    pyplot.close(figure)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{1000 * value:.1f}"
