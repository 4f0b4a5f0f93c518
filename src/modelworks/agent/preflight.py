"""What is looked at before a run's command starts: room on the disk, its devices, and the way to every other replica.

What a job would otherwise find out after an hour, or never, is said within half a minute. A run that is alone and asks
for no disk pays nothing for it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from modelworks.agent.gang import Gang
from modelworks.agent.prepare import Ended
from modelworks.agent.tools import Tools
from modelworks.kernel.quantities import format_bytes
from modelworks.kernel.run import RunReason, RunSpec
from modelworks.runtime.rundir import RunDirectory

_GOING = "going"  # in ``state.json``: every replica was told to start


async def cleared(
    directory: RunDirectory,
    spec: RunSpec,
    tools: Tools,
    say: Callable[[str], None],
    prepare: Callable[[], Awaitable[None]],
) -> None:
    """Carry ``prepare`` out, and return when this run and all of its gang may start. Raises Ended.

    The ways between the replicas are tried while the inputs come, and the time for that does not wait for them.
    """
    if spec.disk:
        await tools.call(check_disk, tools.home.agent, spec.disk, tools.node_name)
    meeting = spec.rendezvous
    if meeting is None or not meeting.network or len(meeting.peers) < 2:
        await prepare()
        return
    state = directory.read("state.json") or {}
    if state.get("preflight") == _GOING:
        # An agent before us said go, or was told so, and did not come to start the command.
        if meeting.rank == 0:
            raise Ended(RunReason.STOPPED, "the agent ended at the moment in which all replicas were to begin")
        await prepare()
        return
    gang = Gang(meeting, say)
    steps = [asyncio.ensure_future(step) for step in (gang.look(), prepare())]
    try:
        done, _ = await asyncio.wait(steps, return_when=asyncio.FIRST_EXCEPTION)
        for step in done:
            step.result()
        await gang.begin(partial(tools.call, _remember, directory))
    finally:
        for step in steps:
            step.cancel()
        await asyncio.gather(*steps, return_exceptions=True)
        await gang.close()


def _remember(directory: RunDirectory) -> None:
    directory.write("state.json", {**(directory.read("state.json") or {}), "preflight": _GOING})


def check_disk(folder: Path, wanted: int, node: str) -> None:
    """``wanted`` bytes are free where runs write. Raises Ended."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if free < wanted:
        raise Ended(
            RunReason.PREFLIGHT_FAILED,
            f"node {node} has {format_bytes(free)} free where runs write ({folder}), and preflight.disk asks for "
            f"{format_bytes(wanted)}; make room there, or ask for less",
        )
