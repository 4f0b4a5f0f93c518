"""Who asks for importances waits for others, but not many do: each holds a thread of the API."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import UTC, datetime
from typing import Any

import pytest

from modelworks.db.trials import StoredTrial
from modelworks.kernel.errors import Unavailable
from modelworks.products.sweeps import importances as asked
from modelworks.products.sweeps.importances import FEWEST, importances
from modelworks.products.sweeps.spec import SweepSpec

pytest.importorskip("optuna")
SPEC = SweepSpec.parse(
    {"job": {"command": "true"}, "parameters": {"x": [1, 2]}, "objective": {"metric": "loss"}}, at="spec"
)
TIME = datetime(2026, 1, 1, tzinfo=UTC)
TRIALS = [
    StoredTrial(number, {"x": 1 + number % 2}, "complete", float(number), 1, False, "", TIME, TIME)
    for number in range(FEWEST)
]
ANSWER = {"x": 1.0}


class Optuna:
    """One that answers when it is let."""

    def __init__(self) -> None:
        self.asked, self.let = threading.Semaphore(0), threading.Event()

    def __call__(self, _: Mapping[str, Any]) -> dict[str, float]:
        self.asked.release()
        self.let.wait()
        return ANSWER


@pytest.fixture
def optuna(monkeypatch: pytest.MonkeyPatch) -> Iterator[Optuna]:
    one = Optuna()
    monkeypatch.setattr(asked, "_answer", one)
    asked._kept.clear()
    yield one
    one.let.set()
    asked._kept.clear()


def test_few_wait_and_the_others_are_told(optuna: Optuna) -> None:
    with ThreadPoolExecutor(20) as pool:
        waiting = [pool.submit(importances, f"sweep-{number}", SPEC, TRIALS) for number in range(20)]
        optuna.asked.acquire()
        refused = [future for _, future in zip(range(16), as_completed(waiting), strict=False)]
        assert all(isinstance(future.exception(), Unavailable) for future in refused)
        optuna.let.set()
        assert [future.result() for future in waiting if future not in refused] == [ANSWER] * 4


def test_what_is_known_is_told_at_once(optuna: Optuna) -> None:
    optuna.let.set()
    assert importances("known", SPEC, TRIALS) == ANSWER
    optuna.let.clear()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(importances, "another", SPEC, TRIALS)
        assert importances("known", SPEC, TRIALS) == ANSWER
        optuna.let.set()
        assert other.result() == ANSWER


def test_one_that_waits_too_long_is_told(optuna: Optuna, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "_WAIT", 0.0)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(importances, "first", SPEC, TRIALS)
        optuna.asked.acquire()
        with pytest.raises(Unavailable, match="ask again"):
            importances("second", SPEC, TRIALS)
        optuna.let.set()
        assert first.result() == ANSWER
