"""The state file across releases: who stops a platform may be newer, or older, than who started it."""

from __future__ import annotations

import json
import os

from modelworks.home import Home
from modelworks.supervisor.procfs import Identity, boot_id
from modelworks.supervisor.state import Process, Stage, State
from modelworks.supervisor.unit import Unit


def saved(home: Home) -> dict[str, object]:
    home.run.mkdir(parents=True, exist_ok=True)
    process = Process(Unit("agent", ("true",)), "ready", Identity.of(os.getpid()))
    State(Stage.UP, boot_id(), Identity.of(os.getpid()), processes={"agent": process}).save(home)
    document = json.loads(home.supervisor_state.read_text())
    assert isinstance(document, dict)
    return document


def test_fields_that_an_older_release_did_not_write(home: Home) -> None:
    document = saved(home)
    for name in ("leaves", "bare", "questions"):
        del document["processes"]["agent"]["unit"][name]  # type: ignore[index]
    del document["processes"]["agent"]["last_exit"]  # type: ignore[index]
    home.supervisor_state.write_text(json.dumps(document))
    assert [process.unit.name for process in State.load(home).living()] == ["agent"]


def test_fields_that_a_newer_release_wrote(home: Home) -> None:
    document = saved(home)
    document["news"] = 1
    document["processes"]["agent"]["news"] = 1  # type: ignore[index]
    document["processes"]["agent"]["unit"]["news"] = 1  # type: ignore[index]
    home.supervisor_state.write_text(json.dumps(document))
    state = State.load(home)
    assert state.supervised
    assert [process.unit.name for process in state.living()] == ["agent"]


def test_another_boot_knows_no_processes_but_the_ports(home: Home) -> None:
    document = saved(home) | {"boot_id": "before", "ports": {"host": "127.0.0.1", "port": 1, "s3_port": 2}}
    home.supervisor_state.write_text(json.dumps(document))
    state = State.load(home)
    assert (state.stage, state.living(), state.supervised) == (Stage.DOWN, [], False)
    assert state.ports is not None
