"""Stopping everything: who starts workloads, the workloads, then their keepers, by recorded identities only.

The supervisor does it at its end, and `mw down` when there is no supervisor.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from modelworks.home import Home
from modelworks.supervisor.ask import connect
from modelworks.supervisor.procfs import Identity
from modelworks.supervisor.state import Process, State

# Who goes when: no one before those that use it. Units that are named nowhere go first. The controller goes before the
# workloads: it would take a stopped replica for one that crashed, and start another.
BEFORE_WORKLOADS = (("gateway",), ("courier",), ("controller",))
AFTER_WORKLOADS = (("agent", "bridge"), ("weed", "postgres"))
_KILL_TIMEOUT = 10.0
_NODE_TAKES, _NODES_TAKE = 15.0, 60.0  # seconds beyond the grace
Say = Callable[[str], None]


def stop_everything(home: Home, state: State, sweep: Sequence[str], grace: float, say: Say) -> list[str]:
    """Stop what lives; returns the names of the processes that were stopped. Children are not reaped here."""
    living = state.living()
    named = [name for group in (*BEFORE_WORKLOADS, *AFTER_WORKLOADS) for name in group]
    # Further gateways are named nowhere, and go with those: the first one answers until then.
    unnamed = tuple(process.unit.name for process in living if process.unit.name not in named)
    for group in (unnamed, *BEFORE_WORKLOADS):
        stop_processes([process for process in living if process.unit.name in group], say)
    _stop_workloads(home, state.processes, sweep, grace, say)
    for group in AFTER_WORKLOADS:
        stop_processes([process for process in living if process.unit.name in group], say)
    remove_sockets(home, state.processes.values())
    return list(dict.fromkeys(process.unit.name for process in living))


def stop_processes(processes: Sequence[Process], say: Say) -> None:
    """Signal all of them, wait, and kill what is left when its time is over, with its process group."""
    started = time.monotonic()
    waiting: list[tuple[Process, Identity, int]] = []
    for process in processes:
        identity = process.identity
        pidfd = identity.pidfd() if identity else None
        if identity is None or pidfd is None:
            continue
        waiting.append((process, identity, pidfd))
        with contextlib.suppress(ProcessLookupError):  # ended by itself since
            signal.pidfd_send_signal(pidfd, signal.Signals(process.unit.stop_signal))
            # A process that somebody has stopped (SIGSTOP) takes no notice before it goes on.
            signal.pidfd_send_signal(pidfd, signal.SIGCONT)
    for process, identity, pidfd in waiting:
        name = process.unit.name
        if ended(pidfd, started + process.unit.stop_timeout - time.monotonic()):
            say(f"{name} stopped")
        else:
            say(f"{name} does not stop after {process.unit.stop_timeout:.0f} s: killed")
            with contextlib.suppress(ProcessLookupError):  # just now ended
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            ended(pidfd, _KILL_TIMEOUT)
        # Helpers it may have left in its session's first group; the number cannot be another's while one of them lives.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(identity.pid, signal.SIGKILL)
        os.close(pidfd)


def ended(pidfd: int, timeout: float) -> bool:
    """Wait up to ``timeout`` seconds for the process of a pidfd to end."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout) * 1000))


def _stop_workloads(home: Home, processes: Mapping[str, Process], sweep: Sequence[str], grace: float, say: Say) -> None:
    agent, bridge = processes.get("agent"), processes.get("bridge")
    if bridge is not None and bridge.alive():
        try:
            _ask_to_stop_all(home.bridge_socket, grace, _NODES_TAKE)
        except OSError as error:
            say(f"the nodes do not all stop their workloads ({error}); those end when their leases do")
        else:
            say("workloads stopped on the nodes")
    if agent is not None and agent.alive():
        try:
            _ask_to_stop_all(home.agent_socket, grace, _NODE_TAKES)
        except OSError as error:
            say(f"the agent does not stop its workloads ({error}); they are stopped without it")
        else:
            say("workloads stopped")
            return
    # Nobody answers for the runs: their directories tell which processes are theirs.
    if (home.agent / "runs").is_dir():
        done = subprocess.run([*sweep, str(home.root)], capture_output=True, text=True, check=False)
        if done.returncode:
            say(f"workloads cannot be swept: {(done.stderr.strip().splitlines() or ['no reason'])[-1]}")
        elif done.stdout.strip():
            say(done.stdout.strip())


def _ask_to_stop_all(door: Path, grace: float, more: float) -> None:
    """``POST /stop-all``; returns when every workload has ended. Raises OSError when the agent does not do it."""
    body = json.dumps({"grace": grace})
    request = (
        "POST /stop-all HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"
    )
    with connect(f"unix:{door}", 2.0) as stream:
        stream.settimeout(grace + more)
        stream.sendall(request.encode("ascii"))
        answer = b""
        while part := stream.recv(4096):
            answer += part
    status = answer.split(b" ", 2)[1:2]
    if not status or not status[0].startswith(b"2"):
        raise ConnectionError(answer.split(b"\r\n")[0].decode("latin-1") or "no answer")


def remove_sockets(home: Home, processes: Iterable[Process]) -> None:
    """Socket files that ended processes left behind, in the home and where their units say."""
    for leaf in (leaf for process in processes for leaf in process.unit.leaves):
        Path(leaf).unlink(missing_ok=True)
    for folder in (home.run, home.agent / "sockets"):
        for parent, _, names in os.walk(folder):
            for name in names:
                path = Path(parent, name)
                with contextlib.suppress(FileNotFoundError):  # its owner tidied up
                    if stat.S_ISSOCK(path.lstat().st_mode):
                        path.unlink()
