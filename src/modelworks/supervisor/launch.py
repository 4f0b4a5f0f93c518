"""Starting one unit so that no crash of the supervisor can leave a process that nobody knows of."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence

from modelworks.home import Home
from modelworks.supervisor.logs import open_log
from modelworks.supervisor.procfs import Identity
from modelworks.supervisor.unit import Unit

# The shell waits for one line before it becomes the process: the supervisor writes the process's number down first.
# When the supervisor dies in between, the shell reads the end of its input and goes.
_GATE = 'read -r _ && exec "$@" </dev/null'


class Started:
    """A child behind its gate. ``release`` lets it run."""

    def __init__(self, popen: subprocess.Popen[bytes], identity: Identity) -> None:
        self.popen = popen
        self.identity = identity

    def release(self) -> None:
        assert self.popen.stdin is not None
        with self.popen.stdin as gate:
            gate.write(b"\n")


def start(home: Home, unit: Unit, inherited: Sequence[int]) -> Started:
    """Fork ``unit`` in a session of its own, its output at the end of its log. Raises OSError."""
    env = {} if unit.bare else dict(os.environ)
    env |= unit.env
    if inherited:
        env["MW_LISTEN_FDS"] = ",".join(str(fd) for fd in inherited)
    log = open_log(home, unit.name)
    try:
        popen = subprocess.Popen(
            ["/bin/sh", "-c", _GATE, "sh", *unit.argv],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            env=env,
            cwd=unit.cwd or home.root,
            user=unit.uid,
            group=unit.gid,
            extra_groups=[] if unit.uid is not None else None,
            pass_fds=tuple(inherited),
            start_new_session=True,
            umask=0o022,  # what is secret says so itself; a user's own mask must not hide the rest from workloads
            bufsize=0,
        )
    finally:
        os.close(log)
    identity = Identity.of(popen.pid)
    if identity is None:
        raise ChildProcessError(f"{unit.name} ended at once (exit code {popen.wait()})")
    return Started(popen, identity)
