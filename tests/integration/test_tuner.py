"""The process that chooses parameters: each request may come twice, and it may die between any two."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url
from tests.agents import poll

from modelworks.control.tuner import Tuner
from modelworks.db.migrate import migrate
from modelworks.db.trials import StoredTrial
from modelworks.kernel.errors import ModelworksError, Unavailable
from modelworks.products.sweeps.importances import FEWEST, importances
from modelworks.products.sweeps.spec import SweepSpec

ALGORITHM = {"name": "asha", "sampler": "tpe", "seed": 3, "startup_trials": 2, "min_resource": 1, "reduction_factor": 2}
STUDY: dict[str, Any] = {
    "name": "u" * 16,
    "direction": "minimize",
    "parameters": {
        "c": {"type": "categorical", "choices": ["a", "b"]},
        "n": {"type": "int", "low": 1, "high": 64, "log": True},
        "x": {"type": "float", "low": 0.0, "high": 1.0, "log": False},
    },
    "algorithm": ALGORITHM,
}
BETWEEN = {"type": "float", "low": 0.0, "high": 1.0}


@pytest.fixture
def tuner(database_url: str) -> Iterator[Tuner]:
    migrate(database_url)
    one = Tuner(database_url)
    yield one
    one.stop()
    assert one.pid is None


def asked(answer: dict[str, Any]) -> list[Any]:
    return [one["parameters"] for one in answer["asked"]]


def test_what_was_drawn_told_and_pruned_is_the_same_after_a_kill(tuner: Tuner, database_url: str) -> None:
    request = {"study": STUDY, "ask": [{"number": 0}, {"number": 1}, {"number": 2}]}
    first = asked(tuner.ask(request))
    assert [set(one) for one in first] == [{"c", "n", "x"}] * 3
    assert tuner.pid is not None
    os.kill(tuner.pid, signal.SIGKILL)
    poll(lambda: tuner.pid is None, 10)
    assert asked(tuner.ask(request)) == first
    reports = [{"number": 0, "step": 1, "value": 0.5}, {"number": 1, "step": 1, "value": 2.0}]
    assert tuner.ask({"study": STUDY, "reports": reports})["prune"] == [1]
    results = [
        {"number": 0, "state": "complete", "value": 0.25},
        {"number": 1, "state": "pruned"},
        {"number": 2, "state": "failed"},
    ]
    for _ in range(2):
        tuner.ask({"study": STUDY, "results": results})
    # A trial whose maker died before all of it was drawn has the rest drawn.
    plain = make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    half = asked(tuner.ask({"study": STUDY, "ask": [{"number": 3}]}))
    tuner.stop()
    with psycopg.connect(plain) as connection:
        found = connection.execute("SELECT state FROM optuna.trials ORDER BY number").fetchall()
        assert found == [("COMPLETE",), ("PRUNED",), ("FAIL",), ("RUNNING",)]
        connection.execute(
            "DELETE FROM optuna.trial_params WHERE param_name = 'x' AND trial_id = (SELECT max(trial_id) FROM "
            "optuna.trials)"
        )
        # Our own history of migrations and Optuna's are kept apart.
        assert connection.execute("SELECT count(*) FROM alembic_version").fetchone() == (1,)
    (again,) = asked(tuner.ask({"study": STUDY, "ask": [{"number": 3}]}))
    assert {name: again[name] for name in ("c", "n")} == {name: half[0][name] for name in ("c", "n")}
    assert 0 <= again["x"] <= 1
    for _ in range(2):
        tuner.ask({"drop": STUDY["name"]})


def test_the_seed_decides_what_is_drawn(tuner: Tuner) -> None:
    wish = [{"number": number} for number in range(4)]
    names = ("first", "second")
    drawn = [asked(tuner.ask({"study": {**STUDY, "name": name}, "ask": wish})) for name in names]
    assert drawn[0] == drawn[1]
    other = {**STUDY, "name": "third", "algorithm": {**ALGORITHM, "seed": 4}}
    assert asked(tuner.ask({"study": other, "ask": wish})) != drawn[0]
    grid = {**STUDY, "name": "grid", "parameters": {"x": {"type": "categorical", "choices": [1, 2]}}}
    assert asked(tuner.ask({"study": grid, "ask": [{"number": 0, "fixed": {"x": 2}}]})) == [{"x": 2}]


def test_it_ends_when_nobody_asks_it(database_url: str) -> None:
    tuner = Tuner(database_url, idle=0.2)
    tuner.ask({"drop": "nothing"})
    poll(lambda: tuner.pid is None, 20)


def test_a_database_that_is_away_is_waited_for_and_nonsense_is_said(tuner: Tuner, database_url: str) -> None:
    away = Tuner(make_url(database_url).set(query={"host": "/nowhere"}).render_as_string(hide_password=False))
    with pytest.raises(Unavailable):
        away.ask({"drop": "nothing"})
    away.stop()
    with pytest.raises(ModelworksError, match="the study cannot go on"):
        tuner.ask({"study": {**STUDY, "direction": "sideways"}})


def test_the_controller_does_not_load_optuna() -> None:
    """Its memory is for those who have sweeps, while they do."""
    code = "import sys, modelworks.control.process; sys.exit('optuna' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_parameter_that_the_value_follows_is_the_important_one() -> None:
    parameters = {"c": ["a", "b"], "deep": {"type": "int", "low": 1, "high": 64, "log": True}, "x": BETWEEN}
    job = {"command": "true"}
    spec = SweepSpec.parse(
        {"job": job, "parameters": parameters, "objective": {"metric": "score", "goal": "maximize"}}, at="spec"
    )
    chance, now = random.Random(0), datetime(2026, 1, 31, tzinfo=UTC)
    trials = []
    for number in range(24):
        drawn = {"c": chance.choice("ab"), "deep": chance.randint(1, 64), "x": chance.random()}
        value = None if number == 3 else -abs(drawn["x"] - 0.3) - drawn["deep"] / 1e4
        state = "failed" if value is None else "complete"
        trials.append(StoredTrial(number, drawn, state, value, 1, False, "", now, now))
    found = importances("u" * 16, spec, trials)
    assert next(iter(found)) == "x"
    assert found["x"] > 0.5
    assert sum(found.values()) == pytest.approx(1.0)
    assert importances("u" * 16, spec, trials) is found  # nothing new is complete: nobody is asked
    assert importances("v" * 16, spec, trials[:FEWEST]) == {}
