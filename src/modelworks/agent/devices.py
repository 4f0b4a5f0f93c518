"""Whether a run's GPUs are there and work, before its command starts."""

from __future__ import annotations

from collections.abc import Sequence

from modelworks.agent.node import GpuMonitor
from modelworks.runtime.launch import Gpu


def shortage(wanted: int, given: Sequence[Gpu], monitor: GpuMonitor, node: str) -> str:
    """What is wrong with the GPUs that a run is given, as a sentence; nothing when all of them answer."""
    if len(given) < wanted:
        return (
            f"{wanted} GPU{'s are' if wanted > 1 else ' is'} asked for, and node {node} has {len(given)} to give: "
            f"its driver (NVML) shows {len(monitor.gpus)}, and other runs hold the rest"
        )
    for gpu in given:
        trouble = monitor.trouble(gpu)
        if trouble:
            return (
                f"GPU {gpu.index} ({gpu.model}, {gpu.uuid}) of node {node} does not answer its driver: {trouble}; "
                "see `nvidia-smi` and the kernel's log there"
            )
    return ""
