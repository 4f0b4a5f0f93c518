"""What a replica's engine says of itself at its metrics path, as a handful of standard values.

Engines give the same things different names, and change them between versions; here each has one. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_SERIES = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{[^}]*\})?[ \t]+([^ \t]+)")
# The names of one value, the newer first; a replica has one engine.
_RATIOS = {
    "kv_cache": ("vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "llamacpp:kv_cache_usage_ratio"),
}
_SUMS = {
    "running": ("vllm:num_requests_running", "llamacpp:requests_processing", "mw_requests_in_flight"),
    "waiting": ("vllm:num_requests_waiting", "llamacpp:requests_deferred", "mw_queue_depth"),
}
_TOKENS = ("vllm:generation_tokens_total", "llamacpp:tokens_predicted_total")
# Rows, and the calls of the model that they were computed in.
_ROWS, _CALLS = "mw_batch_rows_sum", "mw_batch_rows_count"
_MEANS = ("llamacpp:n_busy_slots_per_decode",)
_WANTED = frozenset(
    name
    for names in (*_RATIOS.values(), *_SUMS.values(), _TOKENS, (_ROWS, _CALLS), _MEANS)
    for name in names
)  # fmt: skip
NAMES = ("kv_cache", "running", "waiting", "tokens_per_second", "batch_mean")
"""What :func:`values` may hold: the share of the key-value cache in use (0-1), requests being computed and waiting in
the engine, tokens generated a second, and rows (of language models: sequences) in one call of the model."""


@dataclass(frozen=True)
class Scrape:
    """One answer: ``at`` in seconds of a clock that only goes on; ``found`` are the names that count, by series."""

    at: float
    found: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @classmethod
    def of(cls, text: str, at: float) -> Scrape:
        """From Prometheus text. What is no number, and lines that are not understood, are left out."""
        found: dict[str, tuple[float, ...]] = {}
        for line in text.splitlines():
            series = _SERIES.match(line)
            if series is None or series[1] not in _WANTED:
                continue
            try:
                value = float(series[2])
            except ValueError:
                continue
            if 0.0 <= value < float("inf"):
                found[series[1]] = (*found.get(series[1], ()), value)
        return cls(at, found)


def values(now: Scrape, before: Scrape | None) -> dict[str, float]:
    """Some of :data:`NAMES`. Rates are of the time between two scrapes; a counter that began anew has none."""
    found: dict[str, float] = {}
    for name, names in _RATIOS.items():
        if (series := _first(now, names)) is not None:
            found[name] = min(1.0, max(series))
    for name, names in _SUMS.items():
        if (series := _first(now, names)) is not None:
            found[name] = sum(series)
    tokens = _increase(now, before, _TOKENS)
    if tokens is not None and before is not None and now.at > before.at:
        found["tokens_per_second"] = round(tokens / (now.at - before.at), 3)
    rows, calls = _increase(now, before, (_ROWS,)), _increase(now, before, (_CALLS,))
    if rows is not None and calls:
        found["batch_mean"] = round(rows / calls, 3)
    if "batch_mean" not in found and (series := _first(now, _MEANS)) is not None:
        found["batch_mean"] = max(series)
    return found


def _first(scrape: Scrape, names: tuple[str, ...]) -> tuple[float, ...] | None:
    return next((scrape.found[name] for name in names if name in scrape.found), None)


def _increase(now: Scrape, before: Scrape | None, names: tuple[str, ...]) -> float | None:
    """Of a counter's sum since the scrape before; None without one, or when it began anew."""
    name = next((name for name in names if name in now.found), None)
    if name is None or before is None or name not in before.found:
        return None
    increase = sum(now.found[name]) - sum(before.found[name])
    return increase if increase >= 0 else None
