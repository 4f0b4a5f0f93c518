"""The stacks of runs that a decision asks for: into their logs on their nodes, and into events of their resource."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from modelworks.control.fleet import Fleet
from modelworks.kernel.decision import CaptureStacks, Emit, StacksOf
from modelworks.kernel.errors import Conflict, NotFound, Unavailable

EVENT = "Stacks"
_MOST = 16 * 1024  # characters of an event; the log has all
_AT_ONCE = 16


def capture(fleet: Fleet, action: CaptureStacks) -> list[Emit]:
    """All at once. A run that has ended meanwhile tells nothing, nor does one whose node is away."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        told = list(pool.map(lambda run: _one(fleet, run), action.runs))
    return [event for event in told if event is not None]


def _one(fleet: Fleet, run: StacksOf) -> Emit | None:
    try:
        text = fleet.runtime(run.node).stacks(run.key, record=True)
    except (NotFound, Conflict, Unavailable):
        return None
    data = {"rank": run.rank, "node": run.node, "key": run.key, "stacks": text[:_MOST]}
    return Emit(EVENT, f"rank {run.rank} on node {run.node}: {_innermost(text)}", data=data)


def _innermost(text: str) -> str:
    """One line that says most: where the first Python's main thread is, or what the first process waits for."""
    lines = text.splitlines()
    frames = [line.strip() for line in lines if line.startswith("    ")]
    first = frames[0] if frames else next(iter(lines), "nothing is told")
    return first[:200]
