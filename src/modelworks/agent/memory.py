"""The watch over a run's memory, as far as the kernel does not keep it within its limit by itself."""

from __future__ import annotations

from modelworks.agent.metrics import RunMeter
from modelworks.runtime.limits import out_of_memory
from modelworks.runtime.processes import Processes


def exceeded(meter: RunMeter, limit: int, seen: Processes) -> str:
    """What is said of a run that used more than its limit, or that the kernel killed for it; else nothing."""
    group = meter.group
    if group is not None:
        return out_of_memory(group.peak(), limit) if group.kills() > 0 else ""
    used = meter.memory(seen, limit)
    return out_of_memory(used, limit) if used > limit else ""
