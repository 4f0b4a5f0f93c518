"""What `mw service explain` prints: replicas, load, queue and the autoscaler's last decisions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from modelworks.cli.command import Invocation
from modelworks.cli.output import age
from modelworks.sdk.client import Document

_METRICS = {"qps": "requests/s", "concurrency": "requests at once", "cpu": "CPU", "gpu": "GPU"}


def print_explained(call: Invocation, explained: Document) -> None:
    """The whole for people, or as JSON."""
    if call.out.as_json:
        call.out.document(explained)
        return
    for line in _head(explained):
        call.out.say(line)
    rows = [(age(d["at"]), f"{d['before']} → {d['after']}", d["reason"], _why(d)) for d in explained["decisions"]]
    if rows:
        call.out.say("")
        call.out.table(("AGE", "REPLICAS", "REASON", "WHY"), rows)


def _head(explained: Document) -> Iterator[str]:
    yield f"{explained['service']}: {explained['phase']}, {explained['message']}"
    bounds = f" (min {explained['min']}, max {explained['max']})" if explained["autoscaled"] else ""
    yield f"replicas: {explained['wanted']} wanted, {explained['ready']} ready{bounds}"
    yield f"why: {explained['why']}"
    for metric in explained["metrics"]:
        yield f"{_METRICS.get(metric['metric'], metric['metric'])}: {_load(metric)}"
    queue = explained["queue"]
    if not queue["known"]:
        yield "traffic: not known, since not every gateway reports; nothing is scaled in meanwhile"
    oldest = f", the oldest for {queue['oldest']:.1f} s" if queue["queued"] else ""
    yield f"queue: {queue['queued']} wait{oldest}; {queue['in_flight']} are being answered"
    if queue["arrived_per_second"] is not None:
        yield f"last {queue['seconds']:.0f} s: {queue['arrived_per_second']:.1f} requests/s{_answers(queue)}"
    rejected = {code: count for code, count in queue["rejected"].items() if count}
    if rejected:
        yield f"rejected: {', '.join(f'{count} {code}' for code, count in sorted(rejected.items()))}"
    for replica in explained.get("replicas", ()):
        yield f"replica {replica['replica']}: {_use(replica['usage'])}"
        for note in replica["notes"]:
            yield f"  note: {note}"
    for alert in explained["alerts"]:
        yield f"alert: {alert}"


def _use(usage: Document) -> str:
    """What a replica uses, and what its engine says."""
    told: Mapping[str, Callable[[float], str]] = {
        "cpu": lambda value: f"{value:.2f} cores",
        "memory": lambda value: f"{value / 2**20:.0f} MiB",
        "gpu": lambda value: f"GPU busy {value:.0%}",
        "gpu_memory_busy": lambda value: f"its memory {value:.0%}",
        "running": lambda value: f"{value:.0f} requests being computed",
        "waiting": lambda value: f"{value:.0f} wait in it",
        "batch_mean": lambda value: f"{value:.1f} rows a batch",
        "tokens_per_second": lambda value: f"{value:.1f} tokens/s",
        "kv_cache": lambda value: f"KV cache {value:.0%}",
    }
    return ", ".join(say(usage[name]) for name, say in told.items() if name in usage)


def _load(metric: Document) -> str:
    if metric["total"] is None:
        return f"not known; target {metric['target']:g} for each replica"
    each = "" if metric["current"] is None else f", {metric['current']:.2f} for each replica"
    return f"{metric['total']:.2f}{each}; target {metric['target']:g}"


def _answers(queue: Document) -> str:
    if queue["p50"] is None:
        return ""
    errors = f"{queue['error_rate'] * 100:.2f} % errors"
    return f", {errors}, p50 {queue['p50'] * 1000:.1f} ms, p99 {queue['p99'] * 1000:.1f} ms"


def _why(decision: Document) -> str:
    numbers = decision["numbers"]
    metrics = [
        f"{metric['metric']} {metric['total']:.1f}, target {metric['target']:g}"
        for metric in numbers.get("metrics", ())
        if metric["total"] is not None
    ]
    return "; ".join([str(numbers.get("why", "")), *metrics])
