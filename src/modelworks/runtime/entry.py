"""The first process inside the sandbox: ``python -I -S entry.py <entry.json>`` becomes the workload.

It gives up root (and with it every capability), starts the portal when the replica listens on a port, and replaces
itself with the command. Standard library only; it runs without site-packages.
"""

from __future__ import annotations

import os
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from shim import read_json  # type: ignore[import-not-found]


def start_portal(socket: str, port: int) -> None:
    """In a process of its own that outlasts SIGTERM, so that a draining replica can finish its answers."""
    if os.fork() == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        portal = os.path.join(os.path.dirname(os.path.abspath(__file__)), "portal.py")
        os.execv(sys.executable, [sys.executable, "-I", "-S", portal, socket, str(port)])


def fail(message: str, code: int) -> int:
    sys.stderr.write(f"modelworks: {message}\n")
    return code


def main(path: str) -> int:
    """Returns only when the command cannot be run: the exit code a shell would give."""
    entry = read_json(path)
    command, env = entry["command"], entry["env"]
    if entry["uid"] is not None:
        os.setgroups([])
        os.setgid(entry["gid"])
        os.setuid(entry["uid"])
    if entry["portal"]:
        start_portal(entry["portal"]["socket"], entry["portal"]["port"])
    try:
        os.chdir(entry["cwd"])
    except OSError as error:
        return fail(f"cannot enter the work directory {entry['cwd']}: {error.strerror}", 126)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, env)
    except (FileNotFoundError, NotADirectoryError):
        if "/" in command[0] and os.path.exists(command[0]):
            return fail(f"{command[0]} names an interpreter in its first line that is not there", 127)
        return fail(f"command not found: {command[0]}", 127)
    except PermissionError:
        return fail(f"not executable: {command[0]}", 126)
    except OSError as error:
        return fail(f"cannot run {command[0]}: {error.strerror}", 126)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
