"""A loop that is woken: no wake-up is lost, no failure ends it, and its end is waited for."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from modelworks.control.woken import WokenLoop
from modelworks.kernel.errors import Unavailable

_LONG = 3600.0
_PATIENCE = 60.0


class Turns(WokenLoop):
    """Counts its turns; the first ones are as told."""

    def __init__(self, *first: Callable[[], float]) -> None:
        super().__init__("turns")
        self.first = list(first)
        self.taken = threading.Semaphore(0)

    def turn(self) -> float:
        try:
            return self.first.pop(0)() if self.first else _LONG
        finally:
            self.taken.release()

    def took(self, count: int = 1) -> bool:
        return all(self.taken.acquire(timeout=_PATIENCE) for _ in range(count))


@contextmanager
def running(loop: Turns) -> Iterator[Turns]:
    loop.start()
    try:
        yield loop
    finally:
        loop.stop(_PATIENCE)
        assert not loop.is_alive()


def test_it_is_woken_and_otherwise_waits() -> None:
    with running(Turns()) as loop:
        assert loop.took()
        for _ in range(3):
            loop.wake("a payload")
            assert loop.took()
        assert not loop.taken.acquire(blocking=False)


def test_who_wakes_it_during_a_turn_gets_another_one() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow() -> float:
        begun.set()
        assert go_on.wait(_PATIENCE)
        return _LONG

    with running(Turns(slow)) as loop:
        assert begun.wait(_PATIENCE)
        loop.wake()
        go_on.set()
        assert loop.took(2)


def test_turns_that_fail_are_repeated() -> None:
    def away() -> float:
        raise Unavailable("the database is away")

    def broken() -> float:
        raise ValueError("a fault")

    with running(Turns(away, broken, lambda: 0.0)) as loop:
        assert loop.took(4)


def test_one_that_never_began_is_stopped_too() -> None:
    Turns().stop()
