"""One process or step that the supervisor runs, as plain data.

It comes as JSON from the child that prepares it, and is kept in ``run/supervisor.json`` for who comes after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from modelworks.supervisor.ask import Question
from modelworks.supervisor.policy import Need


@dataclass(frozen=True)
class Unit:
    """How to start, ask and stop one process.

    ``env`` adds to the supervisor's environment, or is all there is with ``bare``. ``uid`` and ``gid`` are of another
    user to run as. ``stop_signal`` begins a graceful end, SIGKILL follows after ``stop_timeout`` seconds. A unit that
    ``listens`` inherits the public socket. ``leaves`` are socket files that it may leave behind.
    A unit with ``on_demand``, the path of a socket, is started when somebody connects to that: the supervisor listens,
    the unit inherits, and may end (exit code 0) when it has had nothing to do.
    """

    name: str
    argv: tuple[str, ...]
    after: tuple[str, ...] = ()
    step: bool = False
    questions: tuple[Question, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    bare: bool = False
    cwd: str | None = None
    uid: int | None = None
    gid: int | None = None
    stop_signal: int = 15
    stop_timeout: float = 12.0
    listens: bool = False
    leaves: tuple[str, ...] = ()
    on_demand: str | None = None

    @property
    def need(self) -> Need:
        return Need(self.name, self.after, self.step, self.on_demand is not None)

    @classmethod
    def decode(cls, data: dict[str, Any]) -> Self:
        """From JSON; the inverse of ``dataclasses.asdict``. Another release may know other fields."""
        lists = {name: tuple(data.get(name, ())) for name in ("argv", "after", "leaves")}
        questions = tuple(map(Question.decode, data.get("questions", ())))
        return cls(**known_fields(cls, data | lists | {"questions": questions}))


def known_fields(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """What of ``data`` the dataclass ``cls`` has a field for."""
    names = {one.name for one in fields(cls)}
    return {name: value for name, value in data.items() if name in names}
