"""Resources whose stored spec this release does not take."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.job_loop import job

from modelworks.control.unreadable import unreadable
from modelworks.kernel.decision import Emit, Remove
from modelworks.kernel.errors import Invalid
from modelworks.kernel.resource import Resource
from modelworks.products.serving.record import Record as ServiceRecord
from modelworks.products.sweeps.record import Record as SweepRecord
from modelworks.products.training.decide import decide
from modelworks.products.training.observe import Observed
from modelworks.products.training.record import JobPhase, Record

NOW = datetime(2026, 3, 2, tzinfo=UTC)
WRONG = "spec.replicsa: unknown field; did you mean replicas?"


def of_another_release(status: dict[str, Any]) -> tuple[Resource, Invalid]:
    resource = replace(job(replicsa=2), status=status)
    with pytest.raises(Invalid) as caught:
        decide(resource, Observed(), NOW)
    return resource, caught.value


def test_one_that_never_began_has_failed_and_says_which_field_and_what_to_do() -> None:
    resource, error = of_another_release({})
    decision = unreadable(resource, error)
    status = decision.status
    assert (status["phase"], status["reason"]) == ("Failed", "SpecInvalid")
    assert WRONG in status["message"]
    assert "delete it and apply a corrected file" in status["message"]
    (condition,) = status["conditions"]
    assert (condition["type"], condition["status"], condition["reason"]) == ("SpecValid", "False", "SpecInvalid")
    assert [action.reason for action in decision.actions if isinstance(action, Emit)] == ["SpecInvalid"]
    assert unreadable(replace(resource, status=dict(status)), error).actions == ()
    for record in (Record, ServiceRecord, SweepRecord):
        assert record.of(status).phase == "Failed"
    # What has failed is left as it is, whatever its spec.
    assert decide(replace(resource, status=dict(status)), Observed(), NOW).status == status


def test_one_that_runs_keeps_its_phase_and_all_that_is_known_of_it() -> None:
    before = replace(Record(), phase=JobPhase.RUNNING, message="running", attempt=3, started_at=5.0).status(1)
    resource, error = of_another_release(before)
    decision = unreadable(resource, error)
    after = Record.of(decision.status)
    assert replace(after, message="running") == Record.of(before)
    assert WRONG in after.message
    assert [one["type"] for one in decision.status["conditions"]] == ["Complete", "SpecValid"]
    assert decision.wake_in is not None
    again = unreadable(replace(resource, status=dict(decision.status)), error)
    assert (again.status, again.actions) == (decision.status, ())


def test_it_can_be_deleted() -> None:
    resource, _ = of_another_release({})
    assert Remove() in decide(replace(resource, deleting=NOW), Observed(), NOW).actions
