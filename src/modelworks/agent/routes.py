"""The agent's HTTP API; ``runtime/agent_client`` is its client.

| call | what |
|---|---|
| ``GET /healthz`` | ``{status, pid, configuration}``: of which configuration, who started it knows |
| ``GET /node`` | NodeObservation |
| ``PUT /runs`` | RunSpec → RunObservation |
| ``POST /lease/challenge`` | ``{challenge}`` |
| ``POST /lease/renew`` | ``{challenge}`` |
| ``POST /runs/stop`` | ``{key, grace, reason, message}`` |
| ``GET /runs?prefix=`` | ``{items}`` |
| ``GET /changes?since=&timeout=`` | ``{cursor, keys}`` |
| ``GET /runs/log?key=&offset=&limit=&part=`` | bytes |
| ``GET /runs/metrics?key=`` | ``{items}`` |
| ``POST /runs/stacks`` | ``{key, record}`` → ``{stacks}`` |
| ``DELETE /runs?key=`` | |
| ``POST /stop-all`` | ``{grace}`` → ``{stopped}``, once they ended |
| ``POST /environments`` | EnvironmentRef → ``{digest, state, message}``; begins to build it |
"""

from __future__ import annotations

import os
from typing import Any

from modelworks.agent.agent import Agent
from modelworks.agent.http import Handler, Request
from modelworks.kernel.run import EnvironmentRef, RunSpec
from modelworks.kernel.spec import Spec

_LONGEST_WAIT = 60.0
_MOST_LOG = 8 << 20


class StopRequest(Spec):
    key: str
    grace: float = 30.0
    reason: str = "Stopped"
    message: str = ""


class StacksRequest(Spec):
    key: str
    record: bool = False


class RenewRequest(Spec):
    challenge: str


class StopAllRequest(Spec):
    grace: float = 10.0


def routes(agent: Agent) -> dict[tuple[str, str], Handler]:
    """The table of ``agent``'s calls."""

    async def healthz(request: Request) -> Any:
        configuration = os.environ.get("MW_AGENT_CONFIGURATION", "")
        return {"status": "ok", "pid": os.getpid(), "configuration": configuration}

    async def node(request: Request) -> Any:
        return agent.node().dump()

    async def ensure(request: Request) -> Any:
        return (await agent.ensure(RunSpec.parse(request.json()))).dump()

    async def challenge(request: Request) -> Any:
        return {"challenge": agent.challenges.give()}

    async def renew(request: Request) -> Any:
        await agent.renew(RenewRequest.parse(request.json()).challenge)
        return {}

    async def stop(request: Request) -> Any:
        wish = StopRequest.parse(request.json())
        await agent.stop(wish.key, wish.grace, wish.reason, wish.message)
        return {}

    async def observe(request: Request) -> Any:
        return {"items": [run.dump() for run in agent.observe(request.query.get("prefix", ""))]}

    async def changes(request: Request) -> Any:
        timeout = min(request.number("timeout", 0), _LONGEST_WAIT)
        cursor, keys = await agent.changes(int(request.number("since", 0)), timeout)
        return {"cursor": cursor, "keys": keys}

    async def log(request: Request) -> Any:
        limit = min(int(request.number("limit", 1 << 20)), _MOST_LOG)
        part = request.query.get("part", "log")
        return await agent.log(request.text("key"), int(request.number("offset", 0)), limit, part)

    async def metrics(request: Request) -> Any:
        return {"items": await agent.metrics(request.text("key"))}

    async def stacks(request: Request) -> Any:
        wish = StacksRequest.parse(request.json())
        return {"stacks": await agent.stacks(wish.key, wish.record)}

    async def forget(request: Request) -> Any:
        await agent.forget(request.text("key"))
        return {}

    async def stop_all(request: Request) -> Any:
        return {"stopped": await agent.stop_all(StopAllRequest.parse(request.json()).grace)}

    async def build(request: Request) -> Any:
        return agent.build(EnvironmentRef.parse(request.json()))

    return {
        ("GET", "/healthz"): healthz,
        ("GET", "/node"): node,
        ("PUT", "/runs"): ensure,
        ("POST", "/lease/challenge"): challenge,
        ("POST", "/lease/renew"): renew,
        ("POST", "/runs/stop"): stop,
        ("GET", "/runs"): observe,
        ("GET", "/changes"): changes,
        ("GET", "/runs/log"): log,
        ("GET", "/runs/metrics"): metrics,
        ("POST", "/runs/stacks"): stacks,
        ("DELETE", "/runs"): forget,
        ("POST", "/stop-all"): stop_all,
        ("POST", "/environments"): build,
    }
