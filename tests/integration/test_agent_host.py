"""What keeps the agent of a cluster's node, without Ray around it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from modelworks.home import Home
from modelworks.runtime.ray.host import AgentHost


def test_an_agent_has_what_is_set_where_ray_is_started(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """It outlives its raylet, and so would have the variables of the former one."""
    monkeypatch.setenv("MW_AGENT_HOME", str(home.root))
    configuration: dict[str, Any] = {"env": {}, "credentials": {}, "client": {}}

    async def body() -> None:
        host = AgentHost("one", None)
        try:
            await host.configure(configuration)
            first = host.agent
            await host.configure(configuration)
            assert (host.agent, host.problem) == (first, "")
            monkeypatch.setenv("MW_RELAY_PORT", "40123")
            await host.configure(configuration)
            assert (host.agent != first, host.problem) == (True, "")
        finally:
            await host.retire()

    asyncio.run(body())
