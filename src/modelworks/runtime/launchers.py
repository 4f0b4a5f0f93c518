"""Who of a process tree is told to end: the programs that were launched, not their launchers nor their helpers.

SIGTERM to a whole tree kills the loader processes of a training script that wants to write a checkpoint; SIGTERM to its
launcher makes that one kill the script after a time of its own. So from the main process we walk down through shells,
torchrun and the like to the first processes that are none of these. Standard library only, and of that only C modules:
the shim uses it.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

SHELLS = frozenset(("sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "busybox"))
WRAPPERS = frozenset((
    "catatonit", "conda", "dumb-init", "env", "micromamba", "nice", "nohup", "setsid", "stdbuf", "strace", "time",
    "timeout", "tini", "uv",
    "horovodrun", "hydra_bstrap_proxy", "hydra_pmi_proxy", "mpiexec", "mpiexec.hydra", "mpirun", "orted", "orterun",
    "prte", "prted", "prterun", "prun", "srun",
))  # fmt: skip
SCRIPTS = frozenset(("accelerate", "accelerate-launch", "conda", "deepspeed", "horovodrun", "mamba", "torchrun"))
"""Programs in Python, by the name of their script; the names of modules follow."""
MODULES = frozenset(
    (
        "accelerate.commands.accelerate_cli",
        "accelerate.commands.launch",
        "deepspeed.launcher.launch",
        "deepspeed.launcher.runner",
        "horovod.runner",
        "horovod.runner.launch",
        "modelworks.runtime.mpi",
        "torch.distributed.launch",
        "torch.distributed.launcher",
        "torch.distributed.run",
    )
)
FILTERS = frozenset((
    "awk", "cat", "cut", "egrep", "gawk", "grep", "head", "logger", "mawk", "sed", "tail", "tee", "tr", "ts",
))  # fmt: skip
"""What ends with its input. Ended before it, it takes the output of a program that is still at work."""
ENGINES = frozenset(("conmon", "docker", "podman"))
_DEEPEST = 64  # launchers in one another
_VALUE_FLAGS = "WXQ"  # of Python, which take another word; -c and -m end its own


class Process:
    """What is looked at of one: ``name`` is the kernel's, ``caught`` a mask of the signals that it handles."""

    __slots__ = ("argv", "caught", "name", "pid", "started")

    def __init__(self, pid: int, name: str, argv: Sequence[str], caught: int, started: int) -> None:
        self.pid = pid
        self.name = name
        self.argv = argv
        self.caught = caught
        self.started = started


def look(pid: int) -> Process | None:
    """The process, or None when it has ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            head, _, tail = file.read().rpartition(b")")
        with open(f"/proc/{pid}/status", "rb") as file:
            mask = file.read().partition(b"\nSigCgt:")[2].split(None, 1)
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(16384).split(b"\0")[:-1]
    except OSError:
        return None
    fields = tail.split()
    if fields[0] in (b"Z", b"X") or not mask:
        return None
    name = os.fsdecode(head.partition(b"(")[2])
    return Process(pid, name, [os.fsdecode(word) for word in words], int(mask[0], 16), int(fields[19]))


def is_launcher(process: Process) -> bool:
    """Whether the process only waits for others that do the work."""
    argv = process.argv
    program = os.path.basename(argv[0]).lstrip("-") if argv else process.name
    if program in SHELLS:
        return not _traps(process.caught)
    if program in WRAPPERS:
        return True
    if program.startswith(("python", "pypy")):
        kind, what = python_program(argv[1:])
        return what in MODULES if kind == "-m" else os.path.basename(what) in SCRIPTS
    return False


def python_program(words: Sequence[str]) -> tuple[str, str]:
    """What a Python runs, from the words after its name: ``("-m", module)``, ``("-c", code)`` or ``("", script)``."""
    at = 0
    while at < len(words):
        word = words[at]
        if not word.startswith("-") or word == "-":
            return "", word
        if not word.startswith("--"):
            for place, flag in enumerate(word[1:], start=2):
                if flag in "mc":
                    return f"-{flag}", word[place:] or (words[at + 1] if at + 1 < len(words) else "")
                if flag in _VALUE_FLAGS:
                    at += not word[place:]
                    break
        elif word == "--check-hash-based-pycs":
            at += 1
        at += 1
    return "", ""


def is_filter(process: Process) -> bool:
    program = os.path.basename(process.argv[0]) if process.argv else process.name
    return program in FILTERS or (len(process.argv) > 3 and process.argv[3].endswith("/runtime/portal.py"))


def hearers(
    roots: Sequence[int], children: Mapping[int, Sequence[int]], see: Callable[[int], Process | None] = look
) -> list[Process]:
    """Whom to tell below ``roots``. A launcher that has nothing below it, or only filters, is told itself."""
    found: list[Process] = []
    seen: set[int] = set()

    def walk(pid: int, depth: int) -> bool:
        """Whether somebody at or below ``pid`` hears."""
        process = None if pid in seen else see(pid)
        seen.add(pid)
        if process is None or is_filter(process):
            return False
        below = children.get(pid, ()) if depth < _DEEPEST and is_launcher(process) else ()
        if sum([walk(child, depth + 1) for child in below]):  # not any(): all of them are told
            return True
        found.append(process)
        return True

    for pid in roots:
        walk(pid, 0)
    return found


def roots(main: int, monitor: int, own: int, children: Mapping[int, Sequence[int]]) -> list[int]:
    """The workload's first processes. ``monitor`` is how deep the sandbox lies below the shim, whose pid is ``own``.

    2: bubblewrap and its init, whose first child is the main process. 1: a container engine's client, and beside it the
    container's monitor, whose child is the container's first process.
    """
    if monitor == 0:
        return [main]
    level = list(children.get(own, ()))
    for _ in range(monitor):
        level = [child for pid in level for child in children.get(pid, ())]
    processes = [process for process in map(look, level) if process is not None]
    if monitor == 2:
        # Whoever came later was left behind by a parent that ended.
        return [process.pid for process in sorted(processes, key=lambda p: (p.started, p.pid))[:1]]
    inside = [process.pid for process in processes if process.name not in ENGINES]
    client = look(main)
    # docker's containers are children of its daemon; its client hands the signal on.
    return [main] if not inside and client is not None and client.name == "docker" else inside


def _traps(caught: int) -> bool:
    """Whether a shell with this mask does something of its own at SIGTERM.

    With a trap for EXIT bash catches every signal that would end it, to run the trap and end at once: whoever it waits
    for would lose the time that is left.
    """
    return bool(caught & _bit(signal.SIGTERM)) and not caught & _bit(signal.SIGALRM)


def _bit(number: int) -> int:
    return 1 << (number - 1)
