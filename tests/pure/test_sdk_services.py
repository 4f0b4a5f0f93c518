"""When a service that was changed counts as ready."""

from __future__ import annotations

from typing import Any

import pytest

from modelworks.sdk.services import _settled
from modelworks.sdk.waiting import SERVICE_SETTLED


def service(phase: str, *revisions: str, draining: bool = False, **status: Any) -> dict[str, Any]:
    replicas = [{"key": f"uid/{r}/0/0", "revision": r, "ready": True} for r in revisions]
    leaving = {"uid/old/0/0": 1.0} if draining else {}
    known = {"phase": phase, "revision": "new", "replicas": replicas, "draining": leaving, "observed_generation": 2}
    return {"metadata": {"name": "s", "generation": 2}, "status": known | status}


@pytest.mark.parametrize(
    ("document", "done"),
    [
        (service("Running", "new"), True),
        (service("Running", "old"), False),
        (service("Running", "new", "old"), False),
        (service("Running", "new", "old", draining=True), True),
        (service("Running", "new", observed_generation=1), False),
        (service("Degraded", "new"), False),
        (service("Degraded", "old"), False),
        (service("Degraded", "old", reason="CrashLoop"), True),
        (service("Running", "new", canary={"revision": "try", "slots": [{"ordinal": 0}]}), False),
        (service("Running", "new", "try", canary={"revision": "try", "slots": [{"ordinal": 0}]}), True),
        (service("Degraded", "new", canary={"revision": "try", "slots": [{"ordinal": 0, "failures": 1}]}), True),
        (service("Failed"), True),
        (service("Starting"), False),
    ],
)
def test_a_change_is_done_when_the_new_revision_serves_or_fails(document: dict[str, Any], done: bool) -> None:
    assert _settled(document, SERVICE_SETTLED) is done
    assert _settled(document, ("Stopped",)) is False
