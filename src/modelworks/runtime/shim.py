"""Owns one workload's process tree and tells the truth about its end: ``python -I -S shim.py <run directory>``.

Standard library only, and of that only C modules: one of these lives beside every workload. It is the subreaper of all
that the workload starts, so that nothing escapes by forking twice. It reads ``launch.json``, ``stop`` and ``lease``,
writes ``started`` and ``exited`` (see ``rundir.py``). When it dies, the kernel kills the workload.
"""

from __future__ import annotations

import _ctypes
import errno
import fcntl
import os
import resource
import signal
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import launchers  # type: ignore[import-not-found]

del sys.path[0]  # nothing else is to be found there

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
LOOK_AGAIN = 1.0  # seconds
LEASE_TICK = 1.0  # seconds; after a sleep of the machine, its clock may have come much further than a timer
LEASE_GRACE = 2.0
LEASE_EXPIRED = "this node was cut off from the controller, which may have started the run again elsewhere"
SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class _JsonContext:
    """What the C scanner asks of ``json.JSONDecoder``; importing ``json`` itself would cost 10 ms for its ``re``."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


def read_json(path: str) -> dict[str, Any]:
    with open(path, encoding="utf-8") as file:
        text = file.read()
    try:
        from _json import make_scanner  # noqa: PLC0415 - an accelerator that may be absent
    except ImportError:
        import json  # noqa: PLC0415 - slow to import, so only then

        return json.loads(text)  # type: ignore[no-any-return]
    return make_scanner(_JsonContext)(text, 0)[0]  # type: ignore[arg-type, no-any-return]


def write_file(path: str, text: str) -> str:
    """A durable temporary file beside ``path``, to be renamed or linked."""
    temporary = f"{path}.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    data = text.encode()
    try:
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return temporary


def write_exited(text: str) -> None:
    """On a full disk the truth waits for space; the lock is held as long, so that nobody takes the run for lost."""
    while True:
        try:
            os.rename(write_file("exited", text), "exited")
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            time.sleep(1.0)
        else:
            return


def prctl(option: int, value: int) -> None:
    function = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]
    if _ctypes.call_function(function, (option, value, 0, 0, 0)) != 0:
        raise OSError(f"prctl({option}) failed")


def parents() -> dict[int, int]:
    """pid → parent's pid of every process that can be seen."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    found[int(name)] = int(file.read().rpartition(b")")[2].split()[1])
            except OSError:
                continue  # it ended while we looked
    return found


def children() -> dict[int, list[int]]:
    """pid → pids of its children, of all that can be seen."""
    found: dict[int, list[int]] = {}
    for pid, parent in parents().items():
        found.setdefault(parent, []).append(pid)
    return found


def kill_tree() -> None:
    """SIGKILL to every descendant."""
    known = children()
    level = known.get(os.getpid(), [])
    while level:
        for pid in level:
            tell(pid, signal.SIGKILL)
        level = [child for pid in level for child in known.get(pid, [])]


def tell(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return  # it ended by itself


def become(launch: dict[str, Any], shim: int, gate: int) -> None:
    """The child's way from fork to exec. Nothing of the workload runs before the gate opens."""
    os.setsid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != shim or os.read(gate, 1) != b"1":
        os._exit(125)
    try:
        null = os.open("/dev/null", os.O_RDONLY)
        log = os.open(launch["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for procs in launch["cgroups"]:
            with open(procs, "w") as file:
                file.write("0")
        if launch["affinity"]:
            os.sched_setaffinity(0, launch["affinity"])
        if launch["nice"]:
            os.nice(launch["nice"])
        for name, value in launch["rlimits"].items():
            resource.setrlimit(getattr(resource, name), (value, value))
        # When the machine itself runs out of memory, workloads go before the platform.
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
        os.umask(0o022)
        os.chdir(launch["cwd"])
        # Python ignores these, and exec would hand that down.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.execve(launch["argv"][0], launch["argv"], launch["env"])
    except (OSError, ValueError) as error:
        os.write(2, f"modelworks: cannot start: {error}\n".encode())
    finally:
        os._exit(126)


class Tree:
    """The workload from its start to the end of its last process."""

    def __init__(self, main: int, monitor: int) -> None:
        self.main = main
        self.monitor = monitor
        self.status: int | None = None
        self.ended_at: float | None = None  # the main process; of a gang, the first to fail is the cause
        self.deadline: float | None = None
        self.told: set[tuple[int, int]] = set()
        self.found: set[tuple[int, int]] = set()
        self.look_again = 0.0

    def request_stop(self, grace: float) -> None:
        """Later wishes may only shorten the grace."""
        deadline = time.monotonic() + grace
        self.deadline = deadline if self.deadline is None else min(self.deadline, deadline)

    def reap(self) -> bool:
        """Collect what ended; False when nothing is left."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self.main:
                self.status, self.ended_at = status, time.time()

    def step(self) -> float:
        """Do what is due, and return the seconds after which to look again."""
        if self.status is not None:
            kill_tree()  # the main process is gone: so is the run
            return 0.02
        if self.deadline is None:
            return 3600.0
        now = time.monotonic()
        left = self.deadline - now
        if left <= 0:
            kill_tree()
            return 0.02
        if now >= self.look_again:
            self.terminate()
            # A stop may come before the sandbox has started anything that could hear it. And later a launcher may have
            # started another program, or have nothing left to wait for.
            self.look_again = now + (LOOK_AGAIN if self.told else 0.02)
        return min(left, self.look_again - now)

    def terminate(self) -> None:
        """SIGTERM, once each, to those whom it is meant for.

        Who comes later has until the next look: a launcher may be about to end by itself, a last command may be short.
        """
        known = children()
        roots = launchers.roots(self.main, self.monitor, os.getpid(), known)
        before, self.found, first = self.found, set(), not self.told
        for process in launchers.hearers(roots, known):
            one = (process.pid, process.started)
            self.found.add(one)
            if one not in self.told and (first or one in before):
                self.told.add(one)
                tell(process.pid, signal.SIGTERM)


class Lease:
    """Until when the workload may live, as the agent last wrote it; for ever where there is no such file.

    An agent that is dead, hangs, or hears nothing of the controller writes no more, and needs not to be asked.
    """

    def __init__(self) -> None:
        self.until = self.read()
        self.over = False

    def read(self) -> float | None:
        try:
            return float(read_json("lease")["until"])
        except FileNotFoundError:
            return None

    def step(self, tree: Tree) -> float:
        """End the workload when it is due, and return the seconds after which to look again."""
        if self.until is None:
            return 3600.0
        if not self.over and self.left() <= 0:
            self.until = self.read()
            self.over = self.left() <= 0
            if self.over:
                tree.request_stop(LEASE_GRACE)
                self.tell()
        return 3600.0 if self.over else min(self.left(), LEASE_TICK)

    def left(self) -> float:
        return (self.until or 0.0) - time.clock_gettime(time.CLOCK_BOOTTIME)

    def tell(self) -> None:
        """As if the agent had wished it; what it wished before stands."""
        wish = f'"grace":{LEASE_GRACE},"reason":"LeaseExpired","message":"{LEASE_EXPIRED}","at":{time.time():.6f}'
        try:
            temporary = write_file("stop", f'{{"version":1,{wish}}}')
        except OSError:
            return  # a full disk: the agent finds out by itself
        try:
            os.link(temporary, "stop")
        except FileExistsError:
            pass
        finally:
            os.unlink(temporary)


def main(directory: str) -> int:
    os.chdir(directory)
    lock = os.open("lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0  # another shim has this run
    if os.path.exists("started"):
        return 0
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    if os.getsid(0) != os.getpid():
        os.setsid()
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    launch = read_json("launch.json")
    gate, opener = os.pipe()
    shim = os.getpid()
    pid = os.fork()
    if pid == 0:
        os.close(lock)
        os.close(opener)
        become(launch, shim, gate)
    os.close(gate)
    text = f'{{"version":1,"shim":{shim},"pid":{pid},"at":{time.time():.6f}}}'
    temporary = write_file("started", text)
    try:
        os.link(temporary, "started")
    except FileExistsError:
        os.close(opener)
        return 0
    finally:
        os.unlink(temporary)
    tree = Tree(pid, launch["monitor"])
    lease = Lease()
    lease.step(tree)
    if lease.over or os.path.exists("stop"):
        tree.request_stop(0.0)
    else:
        os.write(opener, b"1")
    os.close(opener)
    announce()
    while tree.reap():
        received = signal.sigtimedwait(SIGNALS, min(lease.step(tree), tree.step()))
        if received is not None and received.si_signo == signal.SIGTERM:
            tree.request_stop(float(read_json("stop")["grace"]) if os.path.exists("stop") else 30.0)
    status = tree.status if tree.status is not None else 9
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    code = 128 + number if number is not None else os.WEXITSTATUS(status)
    if number is None and launch["monitor"] and 128 < code < 128 + 65:
        number = code - 128  # the sandbox reports a death by signal as a shell does
    at = tree.ended_at or time.time()
    text = f'{{"version":1,"code":{code},"signal":{"null" if number is None else number},"at":{at:.6f}}}'
    write_exited(text)
    return 0


def announce() -> None:
    """Close stdout, a pipe of the agent's: end of file says that ``started`` is written."""
    null = os.open("/dev/null", os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 0)
    os.close(null)


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1]))
    except OSError as error:
        os.write(1, str(error).encode())  # to the agent, which waits for ``started``
        sys.exit(1)
