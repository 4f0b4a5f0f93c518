"""Where nodes come from: doors at which agents are asked, of one machine or of a cluster whose nodes come and go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelworks.kernel.errors import Unavailable
from modelworks.runtime.agent_client import AgentClient
from modelworks.runtime.base import Runtime


@dataclass(frozen=True)
class Door:
    """A node that can be asked at ``runtime``, one object for as long as it is there.

    Runs of a node that may be cut off live by a ``lease`` of so many seconds; None: they live whoever is away. ``name``
    is the door's, and the node's until that has told its own.
    """

    name: str
    runtime: Runtime
    lease: float | None = None


class NodeSource(Protocol):
    """Says which nodes there are."""

    def doors(self) -> Sequence[Door]:
        """Those there are now. Raises Unavailable while that is not known, which is not the same as none."""
        ...


class LocalNode:
    """The agent of this home: the machine itself, which nothing can cut off."""

    def __init__(self, socket: Path) -> None:
        self._doors = (Door("local", AgentClient(socket)),)

    def doors(self) -> Sequence[Door]:
        return self._doors


class SocketDirectory:
    """Agents at the sockets ``<node>.sock`` of a directory: somebody puts them there, and takes away who is no more."""

    def __init__(self, folder: Path, lease: float) -> None:
        self._folder = folder
        self._lease = lease
        self._known: dict[str, Door] = {}

    def doors(self) -> Sequence[Door]:
        try:
            names = sorted(path.stem for path in self._folder.iterdir() if path.suffix == ".sock")
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise Unavailable(f"{self._folder} cannot be read: {error.strerror}") from error
        names = [name for name in names if not name.startswith(".")]
        self._known = {name: self._known.get(name) or self._open(name) for name in names}
        return tuple(self._known.values())

    def _open(self, name: str) -> Door:
        return Door(name, AgentClient(self._folder / f"{name}.sock"), self._lease)
