from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from modelworks.supervisor.ask import Protocol, Question
from modelworks.supervisor.child import exit_text
from modelworks.supervisor.status import DEGRADED, NOT_RUNNING, UP, Row, Status, duration, text
from modelworks.supervisor.unit import Unit


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (0, "exit code 0"),
        (1, "exit code 1"),
        (-9, "killed by SIGKILL"),
        (-41, "killed by signal 41"),
        (None, "ended (exit"),
    ],
)
def test_how_a_process_ended(code: int | None, told: str) -> None:
    assert exit_text(code).startswith(told)


@pytest.mark.parametrize(
    ("seconds", "told"), [(0, "0s"), (59.9, "59s"), (61, "1m01s"), (7500, "2h05m"), (4 * 86400 + 6 * 3600, "4d06h")]
)
def test_durations(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def test_a_unit_survives_json_shaped_data() -> None:
    unit = Unit("x", ("a", "b"), ("y",), questions=(Question("unix:/s", protocol=Protocol.POSTGRES),), env={"A": "1"})
    decoded = Unit.decode(json.loads(json.dumps(asdict(unit))))
    assert decoded == unit
    assert decoded.questions[0].protocol is Protocol.POSTGRES


def test_exit_codes_of_status() -> None:
    codes = [Status(state, "/h").exit_code for state in ("up", "degraded", "starting", "stopping", "down")]
    assert codes == [UP, DEGRADED, DEGRADED, DEGRADED, NOT_RUNNING]


def test_the_table_names_what_matters() -> None:
    rows = (Row("supervisor", "ready", 1, 5.0, 0, 15 << 20), Row("agent", "gone", restarts=2))
    told = text(
        Status("degraded", "/h", "http://u", "http://s", rows, isolation=False, images="podman", notes=("no sandbox",))
    )
    assert "isolation  OFF" in told
    assert "images     by podman" in told
    assert "neither podman nor docker" in text(Status("up", "/h", processes=rows, images="none"))
    assert "note: no sandbox" in told
    assert "degraded, 15 MiB in all" in told
    agent = next(line for line in told.splitlines() if line.startswith("agent"))
    assert agent.split() == ["agent", "gone", "-", "-", "2", "-"]
