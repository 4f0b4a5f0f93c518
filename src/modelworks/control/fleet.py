"""The fleet: every node's runs as last seen, kept in memory, so that a pass over a resource asks nobody.

A node's picture is complete or it does not count: while a node cannot be asked, what it holds is unknown, and unknown
is never taken for gone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence

from modelworks.kernel.errors import Unavailable
from modelworks.kernel.run import RunObservation
from modelworks.runtime.base import Runtime

_RETRY_AFTER = 1.0


class Picture:
    """One node's runs. Thread-safe: its observer replaces what it saw, while workers add what they started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._runs: dict[str, dict[str, RunObservation]] = {}  # uid → key → run
        self._added: dict[str, int] = {}  # key → when a worker added it, on the counter below
        self._counter = 0
        self.complete = False

    def begin(self) -> int:
        """Call before asking the node: what is added from now on may be missing in its answer."""
        with self._lock:
            return self._counter

    def replace_all(self, begun: int, runs: Sequence[RunObservation]) -> set[str]:
        """All that the node has; returns the uids it has or had."""
        with self._lock:
            touched = set(self._runs)
            fresh: dict[str, dict[str, RunObservation]] = {}
            for run in runs:
                fresh.setdefault(_uid(run.key), {})[run.key] = run
            for uid in touched:
                self._keep_added(begun, uid, fresh.setdefault(uid, {}))
            self._runs = {uid: found for uid, found in fresh.items() if found}
            self._forget_additions(begun)
            self.complete = True
            return touched | set(fresh)

    def replace(self, begun: int, uid: str, runs: Sequence[RunObservation]) -> None:
        """All that the node has of one resource."""
        with self._lock:
            fresh = {run.key: run for run in runs}
            self._keep_added(begun, uid, fresh)
            self._runs[uid] = fresh
            if not fresh:
                del self._runs[uid]

    def add(self, run: RunObservation) -> None:
        """A run that was just ensured. What the observer saw of it meanwhile is as new, or newer, and stays."""
        with self._lock:
            self._counter += 1
            self._added[run.key] = self._counter
            self._runs.setdefault(_uid(run.key), {}).setdefault(run.key, run)

    def drop(self, key: str) -> None:
        """A run that was just forgotten."""
        with self._lock:
            self._added.pop(key, None)
            self._runs.get(_uid(key), {}).pop(key, None)

    def of(self, uid: str) -> list[RunObservation]:
        with self._lock:
            return list(self._runs.get(uid, {}).values())

    def _keep_added(self, begun: int, uid: str, fresh: dict[str, RunObservation]) -> None:
        for key, run in self._runs.get(uid, {}).items():
            if self._added.get(key, 0) > begun:
                fresh.setdefault(key, run)

    def _forget_additions(self, begun: int) -> None:
        self._added = {key: when for key, when in self._added.items() if when > begun}


class Fleet(Mapping[str, Runtime]):
    """Node name → its runtime, for nodes that have answered at least once; and their pictures.

    ``expected`` doors were configured. Until all of them have answered, a resource may have runs that nobody knows of.
    """

    def __init__(self, expected: int = 1) -> None:
        self._expected = expected
        self._nodes: dict[str, tuple[Runtime, Picture]] = {}

    def __getitem__(self, name: str) -> Runtime:
        return self._nodes[name][0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._nodes.copy())

    def __len__(self) -> int:
        return len(self._nodes)

    def join(self, name: str, runtime: Runtime) -> Picture:
        """A node answered: its picture, the known one when it did before."""
        known = self._nodes.get(name)
        picture = known[1] if known else Picture()
        self._nodes[name] = (runtime, picture)
        return picture

    def runtime(self, name: str) -> Runtime:
        """Raises Unavailable for a node that has not answered since this controller started."""
        if name not in self._nodes:
            raise Unavailable(f"node {name} has not answered yet", retry_after=_RETRY_AFTER)
        return self._nodes[name][0]

    def picture(self, name: str) -> Picture:
        self.runtime(name)
        return self._nodes[name][1]

    def runs(self, uid: str, nodes: Sequence[str] = ()) -> list[RunObservation]:
        """All runs of a resource, which has claims on ``nodes``; Unavailable while any of its nodes is unknown."""
        if len(self._nodes) < self._expected:
            raise Unavailable("the nodes have not all answered yet", retry_after=_RETRY_AFTER)
        for name in nodes:
            self.runtime(name)
        found: list[RunObservation] = []
        for name, (_, picture) in sorted(self._nodes.copy().items()):
            runs = picture.of(uid)
            if (runs or name in nodes) and not picture.complete:
                raise Unavailable(f"node {name} cannot be asked now", retry_after=_RETRY_AFTER)
            found += runs
        return sorted(found, key=lambda run: run.key)


def _uid(key: str) -> str:
    return key.partition("/")[0]
