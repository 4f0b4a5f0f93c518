"""Which batch size and concurrency of a replica are best, out of what was measured. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

SAFE_MEMORY = 0.8  # of a replica's limit
AS_GOOD = 0.95  # of the best throughput: of what is as good, the smallest is taken
PATIENCE = 2  # steps without a gain


@dataclass(frozen=True)
class Trial:
    """A replica kept busy by ``concurrency`` callers. Seconds, and bytes; ``memory`` is the most that was seen."""

    batch: int | None  # max_batch_size; None: the service has no batching
    concurrency: int
    throughput: float  # good answers a second
    p50: float | None
    p99: float | None
    errors: int
    memory: int
    limit: int  # 0: not known

    def unsafe(self, target: float | None = None) -> str:
        """Why these settings must not be used, "" when they may. ``target``: the wanted p99 in seconds."""
        if self.errors:
            return f"{self.errors} errors"
        if not self.throughput:
            return "no answer"
        if self.limit and self.memory > SAFE_MEMORY * self.limit:
            return f"memory {self.memory / self.limit:.0%} of its limit"
        if target is not None and self.p99 is not None and self.p99 > target:
            return f"p99 {1000 * self.p99:.0f} ms"
        return ""

    def document(self) -> dict[str, Any]:
        return asdict(self)


def doubling(most: int) -> list[int]:
    """1, 2, 4 … up to ``most``, which is the last."""
    found = [1]
    while found[-1] * 2 <= most:
        found.append(found[-1] * 2)
    return found if found[-1] == most else [*found, most]


def enough(trials: Sequence[Trial], target: float | None = None) -> bool:
    """Whether larger settings are not worth trying: the last are unsafe, or several brought nothing."""
    if not trials:
        return False
    if trials[-1].unsafe(target):
        return True
    if len(trials) <= PATIENCE:
        return False
    before = max(one.throughput for one in trials[:-PATIENCE])
    return all(one.throughput <= before / AS_GOOD for one in trials[-PATIENCE:])


def best(trials: Sequence[Trial], target: float | None = None) -> Trial | None:
    """The smallest settings whose throughput is as good as any safe one's; None when none is safe."""
    safe = [one for one in trials if not one.unsafe(target)]
    if not safe:
        return None
    most = max(one.throughput for one in safe)
    return min(
        (one for one in safe if one.throughput >= AS_GOOD * most), key=lambda one: (one.batch or 0, one.concurrency)
    )
