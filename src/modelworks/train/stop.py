"""Whether the job is to end, and until when it may work: told by SIGTERM and by ``$MW_NOTICE_FILE``."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from modelworks.train import group, progress

_EXCHANGE = 0.02  # seconds between exchanges of the ranks, where steps are shorter
_MOST_CALLS = 32  # without an exchange, whatever they took

# Not an Event: that has a lock, and a second signal may come while the handler of the first one holds it.
_stopping = False
_watching = False


@dataclass(frozen=True)
class Notice:
    """The platform will end this job. Times are Unix seconds; at ``deadline`` it is killed."""

    reason: str
    at: float
    deadline: float
    message: str = ""

    @property
    def seconds_left(self) -> float:
        return max(self.deadline - time.time(), 0.0)


@dataclass
class _Exchange:
    """When the ranks speak next. The same numbers on every rank, since they are made of what all have exchanged."""

    calls: int = 1  # left until then
    gap: int = 1  # calls between the last two
    last: float | None = None
    agreed: bool = False
    world: int = 1


_exchange = _Exchange()


def notice() -> Notice | None:
    """The notice that this replica was given, or None. A glance at a file; asks no other rank."""
    path = os.environ.get("MW_NOTICE_FILE")
    if not path:
        return None
    try:
        document = json.loads(Path(path).read_bytes())
        return Notice(
            str(document.get("reason", "")),
            float(document["at"]),
            float(document["deadline"]),
            str(document.get("message", "")),
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Notice("", time.time(), time.time(), f"{path} cannot be read")  # it is there: that is what counts


def should_stop() -> bool:
    """The platform wants the job to end: save what is needed and leave before the notice is over.

    With ``torch.distributed`` every rank calls it, once a step, and all get the same answer at the same call: a notice
    to one of them stops all on one step. They exchange a number on the CPU each call, or each 20 ms where steps are
    shorter (0.1 to 0.3 ms on one machine, a round trip of the network between several).

    The first call begins to watch for SIGTERM, in the main thread; a handler that was there before is called too.
    """
    watch()
    path = os.environ.get("MW_NOTICE_FILE")
    mine = _stopping or (bool(path) and os.path.exists(path or ""))
    answer = mine if group.size() == 1 else _ask(mine)
    if answer:
        progress.flush()
    return answer


def _ask(mine: bool) -> bool:
    global _exchange
    if _exchange.world != group.size():
        _exchange = _Exchange(world=group.size())
    state = _exchange
    if state.agreed:
        return True
    state.calls -= 1
    if state.calls > 0:
        return False
    now = time.monotonic()
    # How long a call of the loop takes: by the slowest rank, so that all count to the same number.
    seconds = (now - state.last) / state.gap if state.last is not None else math.inf
    stop, slowest = group.greatest([float(mine), min(seconds, 1e6)])
    state.agreed = stop > 0
    state.gap = state.calls = max(1, min(_MOST_CALLS, 2 * state.gap, int(_EXCHANGE / max(slowest, 1e-6))))
    state.last = time.monotonic()
    return state.agreed


def watch() -> None:
    """Let SIGTERM be heard from now on, in the main thread; ``should_stop`` does so itself."""
    global _watching
    if _watching:
        return
    _watching = True
    before = signal.getsignal(signal.SIGTERM)

    def stop(number: int, frame: FrameType | None) -> None:
        global _stopping
        _stopping = True
        if callable(before):
            before(number, frame)

    with contextlib.suppress(ValueError):  # not in the main thread: the notice's file is left
        signal.signal(signal.SIGTERM, stop)
