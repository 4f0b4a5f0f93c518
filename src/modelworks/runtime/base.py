"""The door to machines. ``local``, ``agent_client`` and ``fake`` pass the same contract tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from modelworks.kernel.run import NodeObservation, RunObservation, RunSpec


class Runtime(Protocol):
    """One node's runs. Every call may be repeated; none waits for a workload.

    Raises :class:`modelworks.kernel.errors.Unavailable` when the node cannot be asked: the caller then knows nothing,
    and must not take silence for death.
    """

    def node(self) -> NodeObservation:
        """The machine: capacity, labels, whether isolation works."""
        ...

    def ensure(self, run: RunSpec) -> RunObservation:
        """The run exists. A key that is known, in whatever phase, is left as it is: nothing starts twice.

        A new run with a ``lease`` begins only while its ``challenge`` is younger than the lease: Unavailable otherwise.
        """
        ...

    def challenge(self) -> str:
        """A word nobody could know before. Whoever sends it back was in touch with this node after it was given."""
        ...

    def renew(self, challenge: str) -> None:
        """Every run with a lease lives ``lease`` seconds from when ``challenge`` was given, unless it lapsed before.

        A late answer renews nothing. Raises Conflict for a word that this node did not give, or long ago.
        """
        ...

    def stop(self, key: str, grace: float, reason: str = "Stopped", message: str = "") -> None:
        """Begin SIGTERM, ``grace`` seconds, SIGKILL; a run not yet started never starts. Unknown keys are ignored.

        ``message`` stands in the notice that the program reads, and in how the run ended.
        """
        ...

    def observe(self, prefix: str = "") -> Sequence[RunObservation]:
        """All runs whose key begins with ``prefix`` (such as ``<uid>/``)."""
        ...

    def changes(self, since: int, timeout: float) -> tuple[int, Sequence[str]]:
        """Wait up to ``timeout`` seconds for changes after cursor ``since``: the new cursor and the changed keys."""
        ...

    def log(self, key: str, offset: int = 0, limit: int = 1 << 20, part: str = "log") -> bytes:
        """Up to ``limit`` bytes of the log from ``offset``; empty at the end. Raises NotFound for unknown keys.

        ``part``: ``log``; ``times``, lines of when it had which size (Unix milliseconds, bytes); or ``reports``, JSON
        lines of what the run reported (``{at, step, name: value}``).
        """
        ...

    def metrics(self, key: str) -> Iterator[dict[str, float]]:
        """Samples ``{at, cpu, memory, gpu, gpu_memory, read, written}``, one each 2 s, oldest first."""
        ...

    def stacks(self, key: str, record: bool = False) -> str:
        """What every process of a living run does now: Python stacks, else the kernel's word for it.

        With ``record`` it is appended to the run's log too. Takes some seconds at most. Raises NotFound for unknown
        keys, and Conflict for a run that has no process (yet, or any more).
        """
        ...

    def forget(self, key: str) -> None:
        """Drop an ended run's directory. A run that has not ended is a Conflict; an unknown key is ignored."""
        ...
