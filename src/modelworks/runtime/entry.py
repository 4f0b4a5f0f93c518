"""The first process inside the sandbox: ``python -I -S entry.py <entry.json>`` becomes the workload.

It gives up root (and with it every capability), starts the portal when the replica listens on a port, and replaces
itself with the command. Before a container there is no sandbox: it makes the network that the container joins. Standard
library only; it runs without site-packages.
"""

from __future__ import annotations

import os
import signal
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from shim import read_json  # type: ignore[import-not-found]

CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP, IFF_RUNNING = 0x1, 0x40


def own_network() -> None:
    """Leave the machine's network for a new one that has nothing but a loopback interface."""
    import _ctypes  # noqa: PLC0415 - only before a container
    import fcntl  # noqa: PLC0415
    import socket  # noqa: PLC0415
    import struct  # noqa: PLC0415

    unshare = _ctypes.dlsym(_ctypes.dlopen(None, 0), "unshare")  # type: ignore[arg-type]
    if _ctypes.call_function(unshare, (CLONE_NEWNET,)) != 0:
        raise OSError("the kernel gives no new network namespace")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh", b"lo", IFF_UP | IFF_RUNNING))


def start_portal(socket: str, port: int, container: bool) -> None:
    """In a process of its own that outlasts SIGTERM, so that a draining replica can finish its answers.

    Beside a container it is a child of the shim, as the container's monitor is: what lies deeper is the workload.
    """
    if os.fork() == 0:
        if container and os.fork() != 0:
            os._exit(0)
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
    if entry.get("own_network"):
        own_network()
    if entry["uid"] is not None:
        os.setgroups([])
        os.setgid(entry["gid"])
        os.setuid(entry["uid"])
    if entry["portal"]:
        start_portal(entry["portal"]["socket"], entry["portal"]["port"], entry["container"])
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
