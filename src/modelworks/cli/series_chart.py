"""Values by step as a line of blocks in the terminal, and as a PNG."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from modelworks.cli.pictures import save
from modelworks.kernel.errors import Invalid
from modelworks.sdk.client import Document

_BLOCKS = "▁▂▃▄▅▆▇█"
_WIDTH = 32


def spark(values: Sequence[float], width: int = _WIDTH) -> str:
    """At most ``width`` blocks, from the least value to the greatest; each is the mean of its stretch."""
    if not values:
        return ""
    count = min(width, len(values))
    bounds = [n * len(values) // count for n in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(bounds)]
    low, high = min(means), max(means)
    span = high - low
    return "".join(_BLOCKS[round((mean - low) / span * 7) if span else 3] for mean in means)


def plot(reported: Sequence[Document], samples: Sequence[Document], name: str, path: Path) -> None:
    """Each value by step, and CPU, memory and GPU by time below."""
    try:
        import matplotlib  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        raise Invalid("--plot needs matplotlib", remedy="pip install 'modelworks[plots]'") from None

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    rows = len(reported) + 1
    figure, axes = pyplot.subplots(rows, 1, figsize=(9, 2.6 * rows), layout="constrained", squeeze=False)
    for drawn, one in zip(axes[:-1, 0], reported, strict=True):
        drawn.plot([point["step"] for point in one["points"]], [point["value"] for point in one["points"]])
        drawn.set_ylabel(one["name"])
        drawn.set_xlabel("step")
    usage = axes[-1, 0]
    begun = float(samples[0]["at"]) if samples else 0.0
    times = [float(sample["at"]) - begun for sample in samples]
    usage.plot(times, [sample.get("cpu", 0) for sample in samples], label="CPU cores")
    usage.plot(times, [sample.get("memory", 0) / 2**30 for sample in samples], label="memory GiB")
    usage.plot(times, [sample.get("gpu", 0) for sample in samples], label="GPU")
    usage.set_xlabel("s")
    usage.legend()
    for drawn in axes[:, 0]:
        drawn.grid(alpha=0.3)
    figure.suptitle(name)
    save(figure, path)
    pyplot.close(figure)
