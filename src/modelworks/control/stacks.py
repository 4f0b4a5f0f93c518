"""The stacks of a run that a decision asks for: into its log on the node, and into an event of its resource."""

from __future__ import annotations

from modelworks.control.fleet import Fleet
from modelworks.kernel.decision import CaptureStacks, Emit
from modelworks.kernel.errors import Conflict, NotFound

EVENT = "Stacks"
_MOST = 16 * 1024  # characters of an event; the log has all


def capture(fleet: Fleet, action: CaptureStacks) -> list[Emit]:
    """Raises Unavailable when the node is away. A run that has ended meanwhile tells nothing."""
    try:
        text = fleet.runtime(action.node).stacks(action.key, record=True)
    except (NotFound, Conflict):
        return []
    data = {"rank": action.rank, "node": action.node, "key": action.key, "stacks": text[:_MOST]}
    return [Emit(EVENT, f"rank {action.rank} on node {action.node}: {_innermost(text)}", data=data)]


def _innermost(text: str) -> str:
    """One line that says most: where the first Python's main thread is, or what the first process waits for."""
    lines = text.splitlines()
    frames = [line.strip() for line in lines if line.startswith("    ")]
    first = frames[0] if frames else next(iter(lines), "nothing is told")
    return first[:200]
