"""`up` and `down`: who holds the home's lock does the work; everybody else waits for it or says how it stands."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from typing import Any

from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed
from modelworks.supervisor import checks, logs
from modelworks.supervisor.preparation import Program, Wish
from modelworks.supervisor.procfs import boot_id
from modelworks.supervisor.report import Endpoint, Pipe, Terminal, print_endpoint
from modelworks.supervisor.shutdown import Say, stop_everything
from modelworks.supervisor.state import GRACE_FILE, Stage, State, lock, write_private
from modelworks.supervisor.supervisor import Supervisor

_POLL = 0.05
_PATIENCE = 180.0
_MARGIN = 90.0  # seconds after the workloads' grace in which a supervisor must have ended everything


def up(home: Home, wish: Wish, program: Program, grace: float, as_json: bool) -> int:
    """Run the platform in the foreground until Ctrl-C."""
    held = _begin(home, wish, as_json)
    return 0 if held is None else Supervisor(home, wish, program, Terminal(as_json), grace).run()


def up_detached(home: Home, wish: Wish, entry: tuple[str, ...], grace: float, as_json: bool) -> int:
    """Start a supervisor of its own session; return when everything answers. Raises SetupFailed when it does not."""
    held = _begin(home, wish, as_json)
    if held is None:
        return 0
    reader, writer = os.pipe()
    flags = [("host", wish.host), ("port", wish.port), ("s3-port", wish.s3_port), ("grace", grace)]
    log = logs.open_log(home, "supervisor")
    supervisor = subprocess.Popen(
        [
            *(*entry, "run", "--home", str(home.root), "--report-fd", str(writer), "--lock-fd", str(held)),
            *(part for flag, value in flags if value is not None for part in (f"--{flag}", str(value))),
        ],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd="/",
        pass_fds=(writer, held),
        start_new_session=True,
    )
    for fd in (writer, held, log):
        os.close(fd)
    try:
        endpoint = _follow(reader, as_json)
    except KeyboardInterrupt:
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait()
        raise
    except SetupFailed:
        supervisor.wait()
        raise
    if endpoint is None:
        path = logs.path_of(home, "supervisor")
        lines = "".join(f"\n  | {line}" for line in logs.tail(path))
        raise SetupFailed(f"the supervisor ended (exit code {supervisor.wait()}); the end of {path}:{lines}")
    print_endpoint(endpoint, as_json)
    supervisor.returncode = 0  # it lives on without us: no warning that we did not wait for it
    return 0


def run(home: Home, wish: Wish, program: Program, grace: float, report_fd: int) -> int:
    """The supervisor of `up --detach`; the lock came with the process."""
    return Supervisor(home, wish, program, Pipe(report_fd), grace).run()


def down(home: Home, program: Program, grace: float, say: Say) -> bool:
    """Stop everything of this home. False when nothing was running. Raises SetupFailed when it cannot."""
    if not home.run.is_dir():
        return False
    try:
        found = _stop_supervisor(home, grace, say)
        state = State.load(home)
        living = state.living()
        if living:
            say("stopping what a supervisor left behind" if not found else "stopping what is left")
            replace(state, stage=Stage.STOPPING, boot_id=boot_id(), supervisor=None).save(home)
        stopped = stop_everything(home, state, program.sweep, grace, say)
        State(ports=state.ports).save(home)
    except OSError as error:
        raise checks.refusal(error, home.root) from error
    return found or bool(stopped)


def _begin(home: Home, wish: Wish, as_json: bool) -> int | None:
    """Take the lock of a home that is fit to start; None when the platform is up already, which is said."""
    checks.check_disk(home)
    checks.make_layout(home)
    deadline = time.monotonic() + _PATIENCE
    while True:
        held = lock(home)
        if held is not None:
            return held
        state = State.load(home)
        if state.stage is Stage.UP and state.supervised:
            asked = wish.port if wish.port and state.ports and wish.port != state.ports.port else None
            print_endpoint(Endpoint(state.url, state.s3_url, str(home.root), 0.0), as_json, again=True)
            if asked:
                print(f"  for port {asked}, run `mw down` first", file=sys.stderr)
            return None
        if time.monotonic() > deadline:
            raise SetupFailed(
                f"another `mw up` or `mw down` of {home.root} does not come to its end ({state.stage})",
                remedy=f"see {home.logs}/supervisor.log, or stop it with `mw down`",
            )
        time.sleep(_POLL)


def _follow(reader: int, as_json: bool) -> Endpoint | None:
    """Tell what the supervisor tells, until it is ready. None when it ended without a word. Raises SetupFailed."""
    with open(reader, encoding="utf-8") as messages:
        for text in messages:
            message: dict[str, Any] = json.loads(text)
            if "line" in message:
                print(message["line"], file=sys.stderr if as_json else sys.stdout, flush=True)
            elif "ready" in message:
                return Endpoint(**message["ready"])
            else:
                raise SetupFailed(message["failed"]["detail"], remedy=message["failed"]["remedy"])
    return None


def _stop_supervisor(home: Home, grace: float, say: Say) -> bool:
    """Hold the lock: first ask a living supervisor to end, and wait. True when there was one."""
    found = told = False
    deadline = time.monotonic() + grace + _MARGIN
    while lock(home) is None:  # held from here to the end of this process
        state = State.load(home)
        supervisor = state.supervisor
        if not found and supervisor is not None:
            write_private(home.run / GRACE_FILE, f"{grace}\n")
            found = supervisor.send(signal.SIGTERM)
        if found and supervisor is not None and not told:
            told = True
            say(f"stopping (supervisor pid {supervisor.pid})")
        if time.monotonic() > deadline:
            if supervisor is not None and supervisor.send(signal.SIGKILL):
                say("the supervisor does not end: killed")
                deadline += _PATIENCE
                continue
            raise SetupFailed(f"another `mw up` or `mw down` of {home.root} does not come to its end")
        time.sleep(_POLL)
    return found
