"""`status`: the processes as they are now, and what agent and controller say of themselves."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from modelworks.home import Home
from modelworks.supervisor.ask import answers, connect
from modelworks.supervisor.policy import Phase
from modelworks.supervisor.procfs import memory, tree_memory
from modelworks.supervisor.state import Process, Stage, State

UP, NOT_RUNNING, DEGRADED = 0, 3, 4
_TIMEOUT = 3.0
_SUPERVISOR = "supervisor"
_RESTED = "exit code 0"


@dataclass(frozen=True)
class Row:
    """One process. ``uptime`` in seconds, ``memory`` the proportional set size of its tree in bytes."""

    name: str
    state: str
    pid: int | None = None
    uptime: float | None = None
    restarts: int = 0
    memory: int | None = None
    last_exit: str = ""


@dataclass(frozen=True)
class Status:
    """What `mw status --json` prints. ``state`` is ``up``, ``degraded``, ``starting``, ``stopping`` or ``down``;
    ``images`` is what runs images (``podman``, ``docker``, ``none``), None while the agent does not answer."""

    state: str
    home: str
    url: str = ""
    s3_url: str = ""
    processes: tuple[Row, ...] = ()
    isolation: bool | None = None
    images: str | None = None
    notes: tuple[str, ...] = ()
    resources: dict[str, Any] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        if self.state == Stage.UP:
            return UP
        return NOT_RUNNING if self.state == Stage.DOWN else DEGRADED


def show(home: Home, as_json: bool) -> int:
    """Print it; returns the exit code. Raises OSError when the home cannot be read."""
    status = look(home)
    print(json.dumps(asdict(status)) if as_json else text(status))
    return status.exit_code


def look(home: Home) -> Status:
    """Ask every process now: what was written down may be long past."""
    state = State.load(home)
    living = state.living()
    if not state.supervised and not living:
        return Status(Stage.DOWN, str(home.root), notes=_how_it_was(home, state))
    rows = [_row(process) for process in state.processes.values() if not process.unit.step]
    on_demand = {process.unit.name for process in state.processes.values() if process.unit.on_demand}
    notes = [
        f"{row.name}: {row.last_exit}"
        for row in rows
        if row.last_exit and row.state != Phase.READY and not (row.name in on_demand and row.last_exit == _RESTED)
    ]
    if state.supervisor is not None and state.supervised:
        pid = state.supervisor.pid
        rows.insert(0, Row(_SUPERVISOR, Phase.READY, pid, state.supervisor.uptime(), 0, memory(state.supervisor.pid)))
    else:
        rows.insert(0, Row(_SUPERVISOR, "gone"))
        notes.append("the supervisor is gone, so nothing is restarted: `mw up` takes over what runs")
    summary: str = state.stage
    if summary in (Stage.UP, Stage.DOWN) or not state.supervised:
        stay = [row for row in rows if row.name not in on_demand]
        summary = Stage.UP if all(row.state == Phase.READY for row in stay) else "degraded"
    for process in state.draining:
        if process.identity is not None and process.alive():
            notes.append(f"{process.unit.name} (pid {process.identity.pid}) answers what it had begun, and then ends")
    node = get_json(f"unix:{home.agent_socket}", "/node") or {}
    if node.get("isolation_note"):
        notes.append(str(node["isolation_note"]))
    notes += [str(note) for note in node.get("notes", ())]
    if "bridge" in state.processes:
        notes += _of_the_cluster(get_json(f"unix:{home.bridge_socket}", "/nodes") or {})
    return Status(
        state=summary,
        home=str(home.root),
        url=state.url,
        s3_url=state.s3_url,
        processes=tuple(rows),
        isolation=node.get("isolation"),
        images=(node.get("labels") or {}).get("container-engine"),
        notes=tuple(notes),
        resources=_resources(home),
    )


def _of_the_cluster(said: dict[str, Any]) -> list[str]:
    """How many nodes work, and what keeps the others from it."""
    if not said.get("connected"):
        return [f"the Ray cluster: {said.get('message') or 'the bridge does not answer'}"]
    nodes = said["nodes"]
    ready = [node for node in nodes if node["state"] == "ready"]
    notes = [f"{len(ready)} of {len(nodes)} nodes of the Ray cluster take work"]
    for node in nodes:
        if node["problem"]:
            notes.append(f"node {node['name'] or node['address']}: {node['problem']}")
        if node["draining"]:
            notes.append(f"node {node['name'] or node['address']} is being drained by Ray")
    return notes


def _row(process: Process) -> Row:
    identity = process.identity
    uptime = identity.uptime() if identity else None
    if identity is None or uptime is None:
        phase = process.phase if process.identity is None else "gone"
        return Row(process.unit.name, phase, restarts=process.restarts, last_exit=process.last_exit)
    phase = process.phase
    if phase == Phase.READY and not all(answers(question, _TIMEOUT) for question in process.unit.questions):
        phase = "unresponsive"
    return Row(
        name=process.unit.name,
        state=phase,
        pid=identity.pid,
        uptime=round(uptime, 1),
        restarts=process.restarts,
        memory=tree_memory(identity.pid),
        last_exit=process.last_exit,
    )


def _how_it_was(home: Home, state: State) -> tuple[str, ...]:
    return (f"start it with `mw up`; its home is {home.root}",) if state.ports else ()


def _resources(home: Home) -> dict[str, Any]:
    """The controller's counts by kind and phase; empty when it does not answer."""
    try:
        key = json.loads(home.client.read_text("utf-8"))["api_key"]
    except (FileNotFoundError, ValueError, KeyError):
        return {}
    document = get_json(f"unix:{home.controller_socket}", "/api/v1/status", key) or {}
    counts = document.get("counts", document.get("resources", {}))
    return counts if isinstance(counts, dict) else {}


def get_json(address: str, path: str, key: str | None = None) -> dict[str, Any] | None:
    """``GET`` as HTTP/1.0, so that the body is all until the end; None when there is no good answer."""
    authorization = f"Authorization: Bearer {key}\r\n" if key else ""
    request = f"GET {path} HTTP/1.0\r\nHost: localhost\r\n{authorization}\r\n"
    answer = b""
    try:
        with connect(address, _TIMEOUT) as stream:
            stream.settimeout(_TIMEOUT)
            stream.sendall(request.encode("ascii"))
            stream.shutdown(socket.SHUT_WR)
            while part := stream.recv(65536):
                answer += part
    except OSError:
        return None
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.split(b" ", 2)[1:2] != [b"200"]:
        return None
    try:
        document = json.loads(body)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def text(status: Status) -> str:
    """For people: a table, then the addresses, then what to know."""
    if status.state == Stage.DOWN:
        return "\n".join([f"Modelworks is not running ({status.home})", *(f"  {note}" for note in status.notes)])
    lines = table(
        [("PROCESS", "STATE", "PID", "UPTIME", "RESTARTS", "MEMORY")]
        + [
            (
                row.name,
                row.state,
                str(row.pid or "-"),
                "-" if row.uptime is None else duration(row.uptime),
                str(row.restarts),
                "-" if row.memory is None else f"{row.memory / 2**20:.0f} MiB",
            )
            for row in status.processes
        ]
    )
    total = sum(row.memory or 0 for row in status.processes)
    lines += ["", f"state      {status.state}, {total / 2**20:.0f} MiB in all", f"url        {status.url}"]
    lines += [f"s3         {status.s3_url}", f"home       {status.home}"]
    if status.isolation is not None:
        lines.append(f"isolation  {'on' if status.isolation else 'OFF'}")
    if status.images is not None:
        told = "none: neither podman nor docker is installed" if status.images == "none" else f"by {status.images}"
        lines.append(f"images     {told}")
    for kind, phases in sorted(status.resources.items()):
        told = ", ".join(f"{count} {phase}" for phase, count in phases.items()) if isinstance(phases, dict) else phases
        lines.append(f"{kind.lower():<10} {told}")
    return "\n".join(lines + [f"note: {note}" for note in status.notes])


def table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def duration(seconds: float) -> str:
    """``12s``, ``3m10s``, ``2h05m``, ``4d06h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"
