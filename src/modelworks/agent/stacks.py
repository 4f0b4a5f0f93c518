"""What the processes of a run do now: Python stacks by py-spy, the kernel's word for every process that is no Python.

It reads from outside: a process that hangs in native code, or was stopped, tells as much as one that works. Nothing is
asked of the program, and nothing is changed in it; py-spy holds it still for some milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelworks.runtime import processes
from modelworks.runtime.processes import Processes

LIMIT = 32 * 1024  # characters for a run
DEADLINE = 8.0  # seconds for all its processes
_FRAMES, _THREADS, _PROCESSES = 64, 32, 64
_COMMAND = 160  # characters of a command line
_STATES = {
    "R": "running",
    "S": "sleeping",
    "D": "waiting for a device or a file system",
    "T": "stopped by a signal",
    "t": "stopped by a debugger",
    "Z": "ended, not collected by its parent",
    "I": "idle",
}
# The sandbox's own processes and a container's client: of no interest to who asks why a program hangs.
_OURS = ("bwrap", "conmon", "podman", "docker", "catatonit", "fuse-overlayfs", "slirp4netns", "pasta")


@dataclass(frozen=True)
class Described:
    """A process as the kernel tells of it; ``inside`` is its number in its own namespace."""

    pid: int
    inside: int
    command: str
    state: str
    waits: str
    threads: int
    python: bool

    @property
    def line(self) -> str:
        where = f" in {self.waits}" if self.waits else ""
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        return f"process {self.inside} `{self.command}`: {_STATES.get(self.state, self.state)}{where}{threads}"


def capture(shim: int, key: str, deadline: float = DEADLINE) -> str:
    """The stacks of all processes below ``shim`` or started with the run's key: at most ``LIMIT`` characters.

    Takes at most ``deadline`` seconds: of what does not tell in time the kernel's word stands alone.
    """
    until = time.monotonic() + deadline
    found = list(_interesting(_members(shim, key)))
    shown = found[:_PROCESSES]
    spy = _py_spy()
    with ThreadPoolExecutor(4) as pool:
        told = list(pool.map(lambda process: _tell(process, spy, until), shown))
    lines = [line for block in told for line in block]
    if len(found) > len(shown):
        lines.append(f"and {len(found) - len(shown)} more processes")
    return _bounded(lines) if lines else "it has no process any more"


def log_lines(text: str) -> bytes:
    """A capture as it stands in a run's log, each line marked as the platform's."""
    at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    lines = [f"what every process does, at {at}:", *text.splitlines()]
    return "".join(f"modelworks: {line}\n" for line in lines).encode()


def _members(shim: int, key: str) -> list[int]:
    """In the order they were started, as far as the numbers tell. A container's may be children of an engine."""
    tree = {process.pid for process in Processes.snapshot().tree(shim)} - {shim}
    return sorted(tree | set(processes.with_variable("MW_RUN", key)) - {shim})


def _interesting(pids: Iterable[int]) -> Iterable[Described]:
    for pid in pids:
        described = describe(pid)
        if described is not None and not _ours(described):
            yield described


def _ours(process: Described) -> bool:
    return Path(process.command.split(" ")[0]).name in _OURS


def describe(pid: int) -> Described | None:
    """None when it is gone."""
    folder = Path(f"/proc/{pid}")
    try:
        status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines() if ":\t" in line)
        command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (OSError, ValueError):
        return None
    command = " ".join(command.split()) or f"[{status.get('Name', '?')}]"
    short = command if len(command) <= _COMMAND else f"{command[:_COMMAND]}…"
    inside = int(status.get("NSpid", str(pid)).split()[-1])
    waits = ""
    with contextlib.suppress(OSError):  # not told to everybody
        waits = (folder / "wchan").read_text().strip().removeprefix("0")
    threads = int(status.get("Threads", "1"))
    return Described(pid, inside, short, status.get("State", "?")[:1], waits, threads, _is_python(folder))


def _is_python(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        if os.readlink(folder / "exe").rpartition("/")[2].startswith("python"):
            return True
        with (folder / "maps").open() as maps:
            return any("libpython3" in line for line in maps)
    return False


def _tell(process: Described, spy: str | None, until: float) -> list[str]:
    lines = [process.line]
    if not process.python or process.state == "Z":
        return lines
    if spy is None:
        return [*lines, "  no Python stacks: py-spy is not installed on the node; install modelworks[server]"]
    stacks, trouble = _dump(spy, process.pid, until)
    return [*lines, *stacks] if stacks else [*lines, f"  no Python stacks: {trouble}"]


def _dump(spy: str, pid: int, until: float) -> tuple[list[str], str]:
    """The frames of every thread, or why there are none."""
    trouble = "it did not tell in time"
    states = _thread_states(pid)  # before anybody holds it
    # First held still, so that the frames belong together; a process that cannot be held is read as it runs.
    for options in ((), ("--nonblocking",)):
        left = until - time.monotonic()
        if left <= 0.05:
            break
        done = _run([spy, "dump", "--json", *options, "--pid", str(pid)], left if options else left / 2)
        if done is None:
            trouble = "it did not tell in time"
            continue
        code, out, err = done
        if code == 0:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                return list(format_threads(json.loads(out), states)), ""
        trouble = explain(err)
    return [], trouble


def _run(command: Sequence[str], timeout: float) -> tuple[int, str, str] | None:
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/", text=True
    ) as spy:
        try:
            out, err = spy.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            spy.send_signal(signal.SIGKILL)
            spy.communicate()
            return None
        return spy.returncode, out, err


def _thread_states(pid: int) -> dict[int, str]:
    """The kernel's letter for each thread, by its number in its own namespace, which is what its Python knows."""
    found = {}
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            status = dict(line.split(":", 1) for line in (task / "status").read_text().splitlines() if ":" in line)
            found[int(status["NSpid"].split()[-1])] = status["State"].strip()[:1]
    return found


def format_threads(threads: Sequence[dict[str, Any]], kernel: Mapping[int, str] | None = None) -> Iterable[str]:
    """Of ``py-spy dump --json``: the main thread first, the innermost frame of each first.

    Whether a thread works, ``kernel`` says: py-spy takes each thread for active that has another number in its own
    namespace, as all in a sandbox do.
    """
    ordered = sorted(threads, key=lambda thread: not _is_main(thread))
    for thread in ordered[:_THREADS]:
        # Names are those of ``threading``, which a program need not have imported.
        name = thread.get("thread_name") or ("MainThread" if _is_main(thread) else "thread")
        states = [
            "works" if _works(thread, kernel or {}) else "waits",
            *(["holds the interpreter's lock"] if thread.get("owns_gil") else []),
        ]
        yield f"  {name} ({', '.join(states)})"
        # Of an import half a dozen frames are the interpreter's own, for each module on the way.
        frames = [frame for frame in thread.get("frames") or [] if not _imports(frame)]
        for frame in frames[:_FRAMES]:
            file = frame.get("short_filename") or frame.get("filename") or "?"
            yield f"    {frame['name']} ({file}:{frame.get('line', 0)})"
        if len(frames) > _FRAMES:
            yield f"    and {len(frames) - _FRAMES} frames outside these"
    if len(threads) > _THREADS:
        yield f"  and {len(threads) - _THREADS} more threads"


def _works(thread: dict[str, Any], kernel: Mapping[int, str]) -> bool:
    state = kernel.get(thread.get("os_thread_id") or 0)
    return bool(thread.get("active")) if state is None else state == "R"


def _imports(frame: dict[str, Any]) -> bool:
    return str(frame.get("filename", "")).startswith("<frozen importlib")


def _is_main(thread: dict[str, Any]) -> bool:
    if thread.get("thread_name"):
        return bool(thread["thread_name"] == "MainThread")
    outermost = (thread.get("frames") or [{}])[-1].get("name")
    return outermost in ("<module>", "_run_module_as_main")


def explain(said: str) -> str:
    """What py-spy's words mean for who reads the log, and how there would be stacks."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    text = "; ".join(line.removeprefix("Error: ").removeprefix("Reason: ") for line in lines[:2])[:300]
    lower = said.lower()
    if "permission denied" in lower or "operation not permitted" in lower or "eperm" in lower:
        return (
            "the agent may not look into the process; run the platform as root, give it CAP_SYS_PTRACE, or allow it: "
            "sudo sysctl kernel.yama.ptrace_scope=0"
        )
    return text or "py-spy says nothing"


def _bounded(lines: Sequence[str]) -> str:
    kept: list[str] = []
    size = 0
    for number, line in enumerate(map(_printable, lines)):
        size += len(line) + 1
        if size > LIMIT:
            return "\n".join([*kept, f"and {len(lines) - number} more lines"])
        kept.append(line)
    return "\n".join(kept)


def _printable(line: str) -> str:
    """A workload chooses its names: what would move a terminal's cursor is shown as a question mark."""
    return "".join(char if char.isprintable() else "?" for char in line)


def _py_spy() -> str | None:
    beside = Path(sys.executable).with_name("py-spy")
    if os.access(beside, os.X_OK):
        return str(beside)
    return shutil.which("py-spy")
