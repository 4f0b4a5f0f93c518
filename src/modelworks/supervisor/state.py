"""``run/supervisor.json``: which processes there are, for a later supervisor, `mw down` and `mw status`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Self, TypeVar

from modelworks.home import Home
from modelworks.supervisor.procfs import Identity, boot_id
from modelworks.supervisor.unit import Unit, known_fields

T = TypeVar("T")

_VERSION = 1
GRACE_FILE = "grace"
"""In ``run/``: the seconds that `mw down` grants the workloads, for the supervisor that it asks to end."""


class Stage(StrEnum):
    """Where the platform as a whole is."""

    STARTING = "starting"
    UP = "up"
    STOPPING = "stopping"
    DOWN = "down"


@dataclass(frozen=True)
class Process:
    """One process as it was last written down. ``since`` is Unix seconds; ``last_exit`` a sentence."""

    unit: Unit
    phase: str
    identity: Identity | None = None
    since: float = 0.0
    restarts: int = 0
    last_exit: str = ""

    def alive(self) -> bool:
        return self.identity is not None and self.identity.alive()

    @classmethod
    def decode(cls, data: dict[str, Any]) -> Self:
        """From JSON; the inverse of ``dataclasses.asdict``."""
        own = {"identity": _decoded(Identity, data.get("identity")), "unit": Unit.decode(data["unit"])}
        return cls(**known_fields(cls, data | own))


@dataclass(frozen=True)
class Ports:
    """What the public doors were bound to; kept when the platform is down, so that its addresses stay the same."""

    host: str
    port: int
    s3_port: int | None = None


@dataclass(frozen=True)
class State:
    """The whole file."""

    stage: Stage = Stage.DOWN
    boot_id: str = ""
    supervisor: Identity | None = None
    ports: Ports | None = None
    url: str = ""
    s3_url: str = ""
    processes: Mapping[str, Process] = field(default_factory=dict)
    draining: tuple[Process, ...] = ()  # beside their successors, which are among ``processes``

    @property
    def supervised(self) -> bool:
        return self.supervisor is not None and self.supervisor.alive()

    def living(self) -> list[Process]:
        """The recorded processes that live, in the order in which they were begun."""
        return [process for process in (*self.draining, *self.processes.values()) if process.alive()]

    @classmethod
    def load(cls, home: Home) -> Self:
        """What was written last; empty but for the ports when it is of another boot, or cannot be understood."""
        try:
            data = json.loads(home.supervisor_state.read_text("utf-8"))
        except FileNotFoundError:
            return cls()
        except ValueError:  # a file of another program, or of a disk that lost it
            return cls()
        if not isinstance(data, dict) or data.get("version") != _VERSION:
            return cls()
        state = cls._decode(data)
        if state.boot_id != boot_id():
            return replace(state, stage=Stage.DOWN, supervisor=None, processes={}, draining=())
        return state

    @classmethod
    def _decode(cls, data: dict[str, Any]) -> Self:
        processes = {name: Process.decode(one) for name, one in data["processes"].items()}
        decoded = {
            "stage": Stage(data["stage"]),
            "supervisor": _decoded(Identity, data.get("supervisor")),
            "ports": _decoded(Ports, data.get("ports")),
            "processes": processes,
            "draining": tuple(map(Process.decode, data.get("draining", ()))),
        }
        return cls(**known_fields(cls, data | decoded))

    def save(self, home: Home) -> None:
        """Replace the file. Not synced: after a lost boot it means nothing."""
        write_private(home.supervisor_state, json.dumps({"version": _VERSION, **asdict(self)}, indent=1) + "\n")


def _decoded(cls: type[T], data: dict[str, Any] | None) -> T | None:
    return cls(**known_fields(cls, data)) if data else None


def write_private(path: Path, text: str) -> None:
    """Replace a file, readable by its owner only, at once: who reads sees the old text or the new."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(scratch, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # it may be in place already
            os.unlink(scratch)
        raise


def lock(home: Home) -> int | None:
    """The lock that whoever starts, runs or stops this home's processes holds: a descriptor, or None when it is taken.

    It belongs to the open file, so a child that inherits the descriptor holds it on.
    """
    fd = os.open(home.run / "supervisor.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return None
    return fd


def take_grace(home: Home) -> float | None:
    """What the `mw down` that asks us to end wrote; None when nobody did."""
    path = home.run / GRACE_FILE
    try:
        text = path.read_text("ascii")
        path.unlink()
    except FileNotFoundError:
        return None
    return float(text)
