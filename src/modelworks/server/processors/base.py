"""What every processor can do."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from modelworks.server.messages import Answer, Request


@dataclass(slots=True)
class Work:
    """One prediction, decoded. ``rows`` of one ``key`` may be computed together; ``encode`` makes the answer of what
    :meth:`Processor.execute` gave for ``data``. ``timeout`` (s) is what the caller said in the body."""

    data: Any
    encode: Callable[[Any], Answer]
    rows: int = 1
    key: Hashable = None
    timeout: float | None = None


class Unbatchable(Exception):
    """What the model gave cannot be divided among the requests: each is computed alone from then on."""


class Processor(Protocol):
    """Made once, before the replica is ready.

    ``prepare``, ``split``, ``join`` and ``encode`` are called on the event loop and must be quick; ``slow_prepare``
    says of a request that its ``prepare`` belongs on a thread. ``execute`` is called from several threads at once.
    They raise :class:`modelworks.server.problems.Problem` for what the caller did wrong; any other exception is the
    model's own failure.
    """

    # Rows that one call may hold at most, whatever was asked for; None: any number. 1 and no more: no batches.
    max_rows: int | None
    # Whether its calls may run on the event loop, once they have been seen to take less than a millisecond.
    inline: bool
    # How many calls at once when nobody said.
    threads: int
    # How many calls ``beside`` each other may share the CPUs that one call has for itself otherwise; 1: none.
    lanes: int

    @property
    def name(self) -> str: ...

    def slow_prepare(self, request: Request) -> bool: ...

    def prepare(self, request: Request) -> Work: ...

    def split(self, work: Work, limit: int) -> Sequence[tuple[Any, int]]:
        """The data of a work with more than ``limit`` rows in pieces of at most so many, each with its rows."""
        ...

    def execute(self, data: Sequence[Any], *, beside: bool = False) -> Sequence[Any]:
        """One call of the model for all of ``data``, which are of one key; a result for each, in their order.

        ``beside``: on one CPU, since others run at the same time.

        A single one may give ``Events``: they are sent as they come and not encoded.
        """
        ...

    def join(self, results: Sequence[Any]) -> Any:
        """The result of a work from those of its pieces."""
        ...

    def metadata(self) -> dict[str, Any]:
        """The model as the Open Inference Protocol shows it: ``name``, ``platform``, ``inputs``, ``outputs``."""
        ...

    def examples(self, limit: int | None) -> Sequence[Work]:
        """Made-up inputs of the right shape to warm up with: one row, and ``limit``; empty where the shape is open."""
        ...
