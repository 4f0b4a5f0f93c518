"""What the gateway adds to the time of a request at a steady 100 requests a second.

The same stub (an HAProxy that answers 1 KB by itself) is asked directly and through the gateway, in interleaved blocks.
The gateway has a core of its own; stub and client share the other. A figure is the difference of the two percentiles.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence

from tests.bench.bench_gateway import COMMON, TOKEN, one_kilobyte
from tests.bench.harness import (
    ROOT,
    Entry,
    Figure,
    Unmeasurable,
    answers,
    folder,
    free_port,
    process,
    tool,
    two_cores,
    wait_for,
)
from tests.bench.openloop import Target, percentile, send

P50 = Figure("gateway.added_p50_ms", "ms", 0.7, "lower")
P99 = Figure("gateway.added_p99_ms", "ms", 2.0, "lower")
FIGURES = (P50, P99)
_RATE = 100
_SECONDS = 6
_ROUNDS = 7
_STUB = """
frontend stub
  bind unix@{socket}
  bind 127.0.0.1:{port}
  http-request return status 200 content-type application/json file {answer}
"""


def run() -> Sequence[Entry]:
    haproxy, server, load = tool("haproxy"), *two_cores()
    with folder() as at:
        stub, own_port, stub_port, body = at / "stub.sock", free_port(), free_port(), one_kilobyte()
        (at / "answer.json").write_text(body)
        (at / "stub.cfg").write_text(COMMON + _STUB.format(socket=stub, port=stub_port, answer=at / "answer.json"))
        own = [sys.executable, "-m", "tests.bench.gateway_under_test", str(at / "h"), str(own_port), str(stub), TOKEN]
        with (
            process([haproxy, "-f", str(at / "stub.cfg")], core=load),
            process(own, core=server, env={"PYTHONPATH": str(ROOT)}),
        ):
            wait_for(lambda: answers(stub_port) and answers(own_port), 15, "the servers did not start")
            direct = Target(f"http://127.0.0.1:{stub_port}/", body.encode())
            through = Target(f"http://127.0.0.1:{own_port}/api/predict/stub", body.encode(), TOKEN)
            blocks = _blocks(direct, through)
    added = {share: [b[share] - a[share] for a, b in zip(*blocks, strict=True)] for share in (0.5, 0.99)}
    context = {
        "rate": _RATE,
        "direct_p50_ms": round(statistics.median(block[0.5] for block in blocks[0]), 3),
        "direct_p99_ms": round(statistics.median(block[0.99] for block in blocks[0]), 3),
        "order": "ABBA",
    }
    return [P50.medians(added[0.5], **context), P99.medians(added[0.99], **context)]


def _blocks(direct: Target, through: Target) -> tuple[list[dict[float, float]], list[dict[float, float]]]:
    """Percentiles in milliseconds of each block, directly and through the gateway."""
    found: tuple[list[dict[float, float]], list[dict[float, float]]] = ([], [])
    for target in (direct, through):
        send(target, _RATE, 1)  # warm
    for number in range(_ROUNDS):
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            calls = send((direct, through)[side], _RATE, _SECONDS)
            if any(call.status != 200 for call in calls) or len(calls) != _RATE * _SECONDS:
                raise Unmeasurable("a request at 100/s was not answered")
            took = [call.took * 1e3 for call in calls]
            found[side].append({share: percentile(took, share) for share in (0.5, 0.99)})
    return found
