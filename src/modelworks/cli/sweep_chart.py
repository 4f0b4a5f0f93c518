"""A sweep as a PNG: its history, the trials' values by step, parameters' importance, and parallel coordinates."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from modelworks.cli.pictures import save

_COLOURS = {
    "complete": "tab:blue",
    "pruned": "tab:orange",
    "failed": "tab:red",
    "stopped": "grey",
    "running": "tab:green",
}


def draw(name: str, data: dict[str, Any], path: Path) -> None:
    """``data`` is what the platform answers to ``/sweeps/NAME/plot`` and ``/sweeps/NAME/importances`` together."""
    figure = pyplot.figure(figsize=(15, 8), layout="constrained")
    grid = figure.add_gridspec(2, 3)
    _history(figure.add_subplot(grid[0, 0]), data)
    _curves(figure.add_subplot(grid[0, 1]), data)
    _importances(figure.add_subplot(grid[0, 2]), data)
    _coordinates(figure, figure.add_subplot(grid[1, :]), data)
    figure.suptitle(name)
    save(figure, path)
    pyplot.close(figure)


def _history(axes: Any, data: dict[str, Any]) -> None:
    points = data["history"]
    axes.scatter(range(1, len(points) + 1), [one["value"] for one in points], s=14, label="trials")
    axes.step(range(1, len(points) + 1), [one["best"] for one in points], where="post", color="tab:red", label="best")
    axes.set(xlabel="complete trials", ylabel=data["metric"], title="history")
    axes.grid(alpha=0.3)
    axes.legend()


def _curves(axes: Any, data: dict[str, Any]) -> None:
    told = set()
    for one in data["curves"]:
        label = None if one["state"] in told else one["state"]
        told.add(one["state"])
        colour = _COLOURS.get(one["state"], "black")
        axes.plot(one["steps"], one["values"], color=colour, alpha=0.6, marker=".", linewidth=1, label=label)
    axes.set(xlabel="step", ylabel=data["metric"], title="values by step")
    axes.grid(alpha=0.3)
    if told:
        axes.legend()


def _importances(axes: Any, data: dict[str, Any]) -> None:
    shares = data["importances"]
    names = list(reversed(shares))
    axes.barh(names, [shares[name] for name in names], color="tab:blue")
    axes.set(xlabel="share", title="importance of parameters")
    if shares:
        axes.set_xlim(0, 1)
        return
    axes.set_axis_off()
    said = f"{data['complete']} complete trials; {data['needed']} are needed"
    axes.text(0.5, 0.5, said, ha="center", va="center", transform=axes.transAxes)


def _coordinates(figure: Any, axes: Any, data: dict[str, Any]) -> None:
    """A vertical axis for each parameter and one for the value, a line for each trial, coloured by the value."""
    names = sorted(data["parameters"])
    columns = [*names, data["metric"]]
    scales = [_scale(data["parameters"][name]) for name in names]
    values = [one["value"] for one in data["coordinates"]]
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    span = (high - low) or 1.0
    colours = pyplot.get_cmap("viridis_r" if data["goal"] == "minimize" else "viridis")
    for one in data["coordinates"]:
        share = (one["value"] - low) / span
        heights = [scale(one["parameters"].get(name)) for scale, name in zip(scales, names, strict=True)]
        axes.plot(range(len(columns)), [*heights, share], color=colours(share), alpha=0.7, linewidth=1)
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks([])
    axes.set_ylim(-0.08, 1.08)
    for position, name in enumerate(names):
        lowest, highest = _ends(data["parameters"][name])
        axes.axvline(position, color="grey", linewidth=0.8)
        axes.text(position, -0.06, lowest, ha="center", fontsize=8)
        axes.text(position, 1.03, highest, ha="center", fontsize=8)
    axes.axvline(len(names), color="grey", linewidth=0.8)
    axes.text(len(names), -0.06, f"{low:.4g}", ha="center", fontsize=8)
    axes.text(len(names), 1.03, f"{high:.4g}", ha="center", fontsize=8)
    axes.set_title("parameters of complete trials")


def _scale(parameter: dict[str, Any]) -> Any:
    """Where a value is on its axis, from 0 to 1."""
    if parameter["type"] == "categorical":
        choices = [str(choice) for choice in parameter["choices"]]
        return lambda value: choices.index(str(value)) / max(1, len(choices) - 1)
    scale = math.log if parameter.get("log") else float
    low, high = scale(parameter["low"]), scale(parameter["high"])
    return lambda value: (scale(value) - low) / ((high - low) or 1.0)


def _ends(parameter: dict[str, Any]) -> tuple[str, str]:
    if parameter["type"] == "categorical":
        return str(parameter["choices"][0]), str(parameter["choices"][-1])
    return f"{parameter['low']:.4g}", f"{parameter['high']:.4g}"
