"""How the replicas of an MPI job work together: ``python3 -m modelworks.runtime.mpi launch|host|rsh``.

Rank 0 runs the command by ``launch``, once all others wait by ``host``. Its ``mpirun`` starts a daemon on each of them
as it would by ssh, through ``rsh``: there is no ssh in a sandbox, no key, and no other way from one replica into
another. They end when the command has ended. Standard library only, and of an old Python too: it runs in the job's own
environment or image.

A connection: the host says a challenge, the caller answers ``{ask, command, proof}`` where ``proof`` is the HMAC-SHA256
of challenge, ask and command by the gang's secret. ``hold`` lasts until ``{end: true}``, ``run`` until the host says
``{code}``. Messages are lines of JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any

HANDSHAKE = 10.0  # seconds
PATIENCE = 600.0  # for the other replicas, whose environments may still be built
REMINDER = 30.0
LINE = 1 << 20
LAUNCHERS = ("mpirun", "mpiexec", "orterun", "prterun", "horovodrun")
NOT_FOUND = 127

Address = tuple[str, int]


class Refused(Exception):
    """The other side is not of this gang, or does not speak as it should."""


class Line:
    """A connection that says and hears lines of JSON."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.held = b""

    def say(self, message: dict[str, Any]) -> None:
        self.connection.sendall(json.dumps(message).encode() + b"\n")

    def hear(self) -> dict[str, Any] | None:
        """The next message, or None at the end. Raises Refused and OSError."""
        while b"\n" not in self.held:
            if len(self.held) > LINE:
                raise Refused("a line without an end")
            data = self.connection.recv(65536)
            if not data:
                return None
            self.held += data
        text, _, self.held = self.held.partition(b"\n")
        try:
            message = json.loads(text)
        except ValueError:
            raise Refused("no JSON") from None
        if not isinstance(message, dict):
            raise Refused("no message")
        return message


def proof(secret: str, challenge: str, ask: str, command: str) -> str:
    """What only a member of the gang can say to this challenge and this wish."""
    return hmac.new(secret.encode(), f"{challenge}\n{ask}\n{command}".encode(), hashlib.sha256).hexdigest()


def hosts(text: str) -> dict[str, Address]:
    """``MW_MPI_HOSTS``: ``name=address:port,…``."""
    found = {}
    for item in text.split(","):
        name, _, place = item.partition("=")
        address, _, port = place.rpartition(":")
        found[name] = (address, int(port))
    return found


def call(place: Address, secret: str, ask: str, command: str = "") -> Line:
    """Connect to a host and ask; it has agreed when this returns. Raises OSError and Refused."""
    connection = socket.create_connection(place, HANDSHAKE)
    try:
        connection.settimeout(HANDSHAKE)
        line = Line(connection)
        greeting = line.hear()
        if greeting is None or not isinstance(greeting.get("challenge"), str):
            raise Refused("it does not greet")
        line.say({"ask": ask, "command": command, "proof": proof(secret, greeting["challenge"], ask, command)})
        answer = line.hear()
        if answer is None or answer.get("ok") is not True:
            raise Refused("it does not agree")
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    except BaseException:
        connection.close()
        raise
    return line


class Host:
    """A replica that waits for what rank 0 asks of it."""

    def __init__(self, secret: str) -> None:
        self.secret = secret
        self.over = threading.Event()
        self.code = 0
        self.running: list[threading.Thread] = []

    def listen(self, place: Address) -> socket.socket:
        try:
            return socket.create_server(place, backlog=64)
        except OSError:
            # A node may be reached at an address that is not its own.
            return socket.create_server(("", place[1]), backlog=64)

    def serve(self, server: socket.socket) -> int:
        """Until rank 0 says that it has ended: the exit code."""
        threading.Thread(target=self._accept, args=(server,), daemon=True).start()
        self.over.wait()
        # A daemon ends a moment after mpirun, and who waits for it is to hear of it.
        until = time.monotonic() + HANDSHAKE
        for thread in list(self.running):
            thread.join(max(0.0, until - time.monotonic()))
        return self.code

    def _accept(self, server: socket.socket) -> None:
        while True:
            connection, _ = server.accept()
            threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, Refused):
            line = Line(connection)
            connection.settimeout(HANDSHAKE)
            challenge = secrets.token_hex(16)
            line.say({"challenge": challenge})
            wish = line.hear() or {}
            ask, command = str(wish.get("ask")), str(wish.get("command"))
            if not hmac.compare_digest(str(wish.get("proof")), proof(self.secret, challenge, ask, command)):
                raise Refused
            line.say({"ok": True})
            connection.settimeout(None)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if ask == "hold":
                self._hold(line)
            elif ask == "run":
                self.running.append(threading.current_thread())
                line.say({"code": run_while_wanted(connection, command)})

    def _hold(self, line: Line) -> None:
        message = None
        with contextlib.suppress(OSError, Refused):
            message = line.hear()
        if message is None or message.get("end") is not True:
            # Rank 0's end is the cause, and is to be seen first; who looks after the job then ends this replica too.
            say("rank 0 is gone without a word")
            time.sleep(60.0)
            self.code = 1
        self.over.set()


def run_while_wanted(connection: socket.socket, command: str) -> int:
    """Run a command for the shell as long as the one who asked is there, as ssh does: its exit code."""
    process = subprocess.Popen(["/bin/sh", "-c", command], stdin=subprocess.DEVNULL, start_new_session=True)
    ended, over = socket.socketpair()

    def watch() -> None:
        ready = select.select([connection, ended], [], [])[0]
        with contextlib.suppress(OSError):
            if ended in ready or connection.recv(1, socket.MSG_PEEK):
                return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    with ended, over:
        code = process.wait()
        over.send(b"x")
        watcher.join()
    return 128 - code if code < 0 else code


def launch(command: list[str]) -> int:
    """Run the command once every other replica waits for it: its exit code, which is the job's."""
    others = hosts(os.environ["MW_MPI_HOSTS"])
    others.pop(os.environ["MW_MPI_HOST"], None)
    held = gather(others, os.environ["MW_MPI_SECRET"])
    if held is None:
        return 1
    try:
        process = subprocess.Popen(command)
    except OSError as error:
        say(f"cannot run {command[0]}: {error.strerror}")
        return NOT_FOUND if isinstance(error, FileNotFoundError) else 126
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _: process.send_signal(received))
    code = process.wait()
    if code == NOT_FOUND:
        explain_missing(" ".join(command))
    for line in held:
        with contextlib.suppress(OSError):
            line.say({"end": True})
            line.connection.close()
    return code


def gather(others: dict[str, Address], secret: str) -> list[Line] | None:
    """A connection to each of the others; None, and a word on who is missing, when one does not come."""
    held: dict[str, Line] = {}
    begun = told = time.monotonic()
    while len(held) < len(others):
        reasons = {}
        for name, place in others.items():
            if name in held:
                continue
            try:
                held[name] = call(place, secret, "hold")
            except (OSError, Refused) as error:
                reasons[name] = f"{name} at {place[0]}:{place[1]} ({error})"
        now = time.monotonic()
        if reasons and now - begun > PATIENCE:
            say(f"gave up waiting for {', '.join(reasons.values())}")
            return None
        if reasons and now - told > REMINDER:
            told = now
            say(f"waits for {', '.join(reasons.values())}")
        if reasons:
            time.sleep(0.05)
    return list(held.values())


def explain_missing(text: str) -> None:
    for name in LAUNCHERS:
        if re.search(rf"(?<![\w./-]){name}(?![\w./-])", text) and shutil.which(name) is None:
            say(f"there is no {name}: install OpenMPI (openmpi-bin) on the nodes, or run in an image that has it")
            return


def rsh(arguments: list[str]) -> int:
    """What ``ssh host command …`` would be: the exit code of the command, which another replica runs."""
    # The processes that do the work are told of a stop; this only waits for them.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while arguments and arguments[0].startswith("-"):  # such as -x, which are for ssh
        arguments = arguments[1:]
    name, command = arguments[0].rpartition("@")[2], " ".join(arguments[1:])
    if name == os.environ["MW_MPI_HOST"]:
        return subprocess.call(["/bin/sh", "-c", command])
    known = hosts(os.environ["MW_MPI_HOSTS"])
    if name not in known:
        say(f"{name} is no replica of this job; those are {', '.join(known)}")
        return 255
    try:
        answer = call(known[name], os.environ["MW_MPI_SECRET"], "run", command).hear()
    except (OSError, Refused) as error:
        say(f"{name} at {known[name][0]}:{known[name][1]} cannot be reached: {error}")
        return 255
    if answer is None:
        say(f"{name} is gone")
        return 255
    code = int(answer["code"])
    if code:
        say(f"{command.split()[0] if command else 'nothing'} ended on {name} with exit code {code}; see its log")
    return code


def host() -> int:
    """Wait for rank 0 and do what it asks."""
    one = Host(os.environ["MW_MPI_SECRET"])
    place = hosts(os.environ["MW_MPI_HOSTS"])[os.environ["MW_MPI_HOST"]]
    try:
        server = one.listen(place)
    except OSError as error:
        say(f"cannot listen at {place[0]}:{place[1]}: {error.strerror}")
        return 1
    with server:
        return one.serve(server)


@contextlib.contextmanager
def session() -> Iterator[None]:
    """A directory of the replica's own for OpenMPI's sockets and state.

    Where there is no sandbox two replicas of one machine would make the same one. Its name is short, as the names of
    sockets have to be.
    """
    try:
        folder = tempfile.mkdtemp(prefix="mpi-", dir="/tmp")
    except OSError:
        yield  # an image without a /tmp: OpenMPI looks for another place by itself
        return
    for name in ("OMPI_MCA_orte_tmpdir_base", "PRTE_MCA_prte_tmpdir_base"):
        os.environ.setdefault(name, folder)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def say(text: str) -> None:
    sys.stderr.write(f"modelworks: {text}\n")
    sys.stderr.flush()


def main(arguments: list[str]) -> int:
    verb, *rest = arguments
    if verb == "launch":
        with session():
            code = launch(rest[1:] if rest[:1] == ["--"] else rest)
        if code < 0:  # as the command ended, so does this: the reason is told by the same signal
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        return code
    if verb == "rsh":
        return rsh(rest)
    # Told to end before rank 0 has said so, this one ends by what was started in it, or at once, but tidily.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    with session():
        return host()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
