"""What tests of agents have in common."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from modelworks.runtime import sandbox


@pytest.fixture(params=["sandbox", "plain"])
def isolation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """With the sandbox, and without."""
    if request.param == "plain":
        monkeypatch.setenv("MW_ISOLATION", "off")
    sandbox.probe.cache_clear()
    if request.param == "sandbox" and not sandbox.probe().enabled:
        pytest.skip(sandbox.probe().note)
    yield request.param
    sandbox.probe.cache_clear()
