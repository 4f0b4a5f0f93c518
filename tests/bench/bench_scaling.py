"""How soon a service follows its load: from zero replicas, at a step of load, and far beyond its capacity."""

from __future__ import annotations

import json
import re
import statistics
import textwrap
import threading
import time
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.bench import models
from tests.bench.bench_serving import service
from tests.bench.harness import Entry, Figure, Unmeasurable, folder, mw, platform_home, up, wait_for
from tests.bench.openloop import Call, Target, percentile, send

FROM_ZERO = Figure("serving.from_zero_extra_ms", "ms", 500, "lower")
SCALE_ORDER = Figure("serving.scale_order_s", "s", 2, "lower")
GOODPUT = Figure("serving.overload_goodput", "ratio", 0.95, "higher")
FIGURES = (FROM_ZERO, SCALE_ORDER, GOODPUT)
_ROUNDS = 5
_ROW = json.dumps({"instances": [[i / 64 for i in range(64)]]}).encode()
# A replica of a known capacity: one request at a time, each 10 ms.
_PACED = """
    import time

    class Paced:
        def process(self, data):
            time.sleep(0.01)
            return {"ok": True}
"""
_CAPACITY = 100
_FLOOD_S = 20


def run() -> Sequence[Entry]:
    with folder() as at, platform_home() as home:
        up(home)
        return [_from_zero(home, at), _scale_order(home, at), _overload(home, at)]


def _from_zero(home: Path, at: Path) -> Entry:
    """The first answer of a service at zero, less what its replica alone takes from its start to being ready."""
    scaling = {
        "min": 0,
        "max": 1,
        "initial": 0,
        "idle": "2s",
        "scale_in_stabilization": "0s",
        "scale_in_cooldown": "0s",
    }
    model = models.small(at / "zero.onnx")
    with service(home, at, "zero", model, batching=1, autoscaling=scaling, wait=False) as (url, token):
        target = Target(url, _ROW, token)
        total, own = [], []
        for _ in range(_ROUNDS + 1):
            wait_for(lambda: _status(home, "zero")["phase"] == "Idle" and not _live(home, "zero"), 60, "not at zero")
            (call,) = send(target, 1, 1)
            if call.status != 200:
                raise Unmeasurable(f"a service at zero answered {call.status}")
            total.append(call.took * 1e3)
            own.append(_load_ms(home, "zero"))
    # The first round builds caches that later ones have.
    extra = [whole - load for whole, load in zip(total[1:], own[1:], strict=True)]
    return FROM_ZERO.medians(
        extra, first_answer_ms=round(statistics.median(total[1:])), model_load_ms=round(statistics.median(own[1:]))
    )


def _load_ms(home: Path, name: str) -> float:
    """From the start of the replica's process until its server said that it serves, by the process's own clock."""
    for line in reversed(mw(home, "service", "log", name).stdout.splitlines()):
        if found := re.search(r"serving .*; started in ([0-9.]+) s$", line):
            return float(found[1]) * 1e3
    raise Unmeasurable("the replica's log does not say how long it loaded")


def _scale_order(home: Path, at: Path) -> Entry:
    """A step to ten times the load: from its first request to the decision that orders more replicas."""
    delays, numbers = [], {}
    for number in range(3):
        name = f"step{number}"
        scaling = {"min": 1, "max": 8, "metrics": {"qps": 20}, "scale_out_cooldown": "0s"}
        with service(home, at, name, models.small(at / f"{name}.onnx"), batching=1, autoscaling=scaling) as (
            url,
            token,
        ):
            target = Target(url, _ROW, token)
            send(target, 10, 15)
            before = {decision["at"] for decision in _decisions(home, name)}
            began = time.time() + 0.05  # as the sender's clock begins
            thread = threading.Thread(target=send, args=(target, 100, 8))
            thread.start()
            thread.join()
            made = [one for one in _decisions(home, name) if one["at"] not in before and one["after"] > one["before"]]
            if not made:
                raise Unmeasurable("nothing was ordered in 8 s")
            first = min(made, key=lambda one: str(one["at"]))
            delays.append(datetime.fromisoformat(first["at"]).timestamp() - began)
            numbers = {"before": first["before"], "after": first["after"]}
    return SCALE_ORDER.medians(delays, **numbers)


def _overload(home: Path, at: Path) -> Entry:
    """Answers a second at ten times the capacity of a paced replica, over those at its capacity."""
    code = at / "paced"
    code.mkdir()
    (code / "paced.py").write_text(textwrap.dedent(_PACED))
    spec = {
        "processor": "python",
        "entry": "paced.py:Paced",
        "code": str(code),
        "concurrency": 1,
        "queue": {"timeout": "2s"},
    }
    manifest = at / "paced.json"
    manifest.write_text(json.dumps({"kind": "Service", "metadata": {"name": "paced"}, "spec": spec}))
    mw(home, "service", "create", "-f", str(manifest), "--wait")
    found = json.loads(mw(home, "service", "get", "paced", "--json").stdout)
    target = Target(found["endpoint"], b"{}", mw(home, "service", "token", "paced").stdout.strip())
    send(target, 50, 2)
    ratios, floods = [], list[Call]()
    for _ in range(3):
        normal = _goodput(send(target, _CAPACITY, _FLOOD_S))
        flood = send(target, 10 * _CAPACITY, _FLOOD_S)
        floods += flood
        ratios.append(_goodput(flood) / normal)
    statuses = {status: sum(call.status == status for call in floods) for status in {call.status for call in floods}}
    mw(home, "service", "delete", "paced")
    return GOODPUT.medians(
        ratios,
        statuses={str(status): count for status, count in sorted(statuses.items())},
        accepted_p99_s=round(percentile([call.took for call in floods if call.status == 200], 0.99), 3),
        refused_p99_ms=round(percentile([call.took * 1e3 for call in floods if call.status == 429] or [0.0], 0.99), 2),
        seconds=_FLOOD_S,
    )


def _goodput(calls: Sequence[Call]) -> float:
    """Good answers a second that came while the load lasted, without its first two seconds."""
    came = [call.due + call.took for call in calls if call.status == 200]
    return sum(2 <= at < _FLOOD_S for at in came) / (_FLOOD_S - 2)


def _status(home: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(mw(home, "service", "get", name, "--json").stdout)["status"]
    return found


def _live(home: Path, name: str) -> bool:
    return bool(_status(home, name).get("replicas"))


def _decisions(home: Path, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(mw(home, "service", "explain", name, "--json").stdout)["decisions"]
    return found
