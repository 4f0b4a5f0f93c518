"""The first step: a platform that answers."""

from __future__ import annotations

import subprocess
import sys

from modelworks.kernel.errors import PlatformUnreachable, SetupFailed
from modelworks.sdk import context
from modelworks.sdk.client import Client


def reach(workspace: str) -> tuple[Client, bool]:
    """A client of the platform, and whether it had to be started here. Raises SetupFailed when it does not start."""
    try:
        client = context.connect(workspace=workspace)
        client.status()
    except PlatformUnreachable:
        _up()
        client = context.connect(workspace=workspace)
        client.status()
        return client, True
    return client, False


def _up() -> None:
    """``mw up --detach``, its words on stderr."""
    argv = [sys.executable, "-P", "-m", "modelworks.supervisor", "up", "--detach"]
    done = subprocess.run(argv, stdout=sys.stderr, check=False)
    if done.returncode != 0:
        raise SetupFailed("the platform did not start; the reason is above", remedy="mw up")
