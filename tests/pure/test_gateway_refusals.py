"""What callers of a service that does not answer are told."""

from __future__ import annotations

import pytest

from modelworks.gateway.refusals import Refusals
from modelworks.gateway.table import Route


@pytest.mark.parametrize(
    ("state", "remedy"), [("stopped", "mw service start s"), ("failed", "mw service log s"), ("ready", None)]
)
def test_the_remedy_is_that_of_the_state(state: str, remedy: str | None) -> None:
    refusals = Refusals()
    refusals.route = Route("s", "u", state, "", (), ())
    problem = refusals.unavailable()
    assert (problem is None) == (remedy is None)
    if problem is not None and remedy is not None:
        assert remedy in (problem.remedy or "")
