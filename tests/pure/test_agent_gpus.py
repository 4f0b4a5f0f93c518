"""What is known of GPUs whose driver tells half of it, or nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from modelworks.agent.node import GpuMonitor, GpuUsage
from modelworks.runtime.launch import Gpu


class NVMLError(Exception):
    """The driver's."""


class Driver:
    """Tells of every GPU what it has allocated, and what it does of those that are not ``mute``."""

    NVMLError = NVMLError

    def __init__(self, *mute: int) -> None:
        self.mute = mute

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=100)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        if handle in self.mute:
            raise NVMLError("Not Supported")
        return SimpleNamespace(gpu=80, memory=40)


GPUS = tuple(Gpu(index, f"GPU-{index}", "A100", 1 << 30) for index in range(2))


def monitor(*mute: int) -> GpuMonitor:
    one = GpuMonitor()
    one._nvml = Driver(*mute)  # type: ignore[assignment]
    return one


def test_the_mean_of_several() -> None:
    assert monitor().usage(GPUS) == GpuUsage(0.8, 0.4, 200.0)


def test_one_that_does_not_tell_ends_nothing_and_makes_all_unknown() -> None:
    one = monitor(1)
    assert one.usage(GPUS) == GpuUsage(0.4, 0.2, 200.0, known=False)
    assert one.usage(GPUS[:1]) == GpuUsage(0.8, 0.4, 100.0)
