"""What leaves a run for the object store: its outputs and its log."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from modelworks.agent.lent import lent
from modelworks.agent.logs import CHUNKS, LogShipper, SampleShipper
from modelworks.agent.outputs import OutputUploader
from modelworks.kernel.run import RunSpec
from modelworks.objectstore.client import ObjectClient
from modelworks.runtime.rundir import RunDirectory


class Finisher:
    """Uploads of one run; blocks, and lets one thread in at a time. ``may_commit`` raises what speaks against it.

    Neither a manifest is written then nor a checkpoint sent or deleted: the next attempt may be reading them.
    """

    def __init__(
        self, directory: RunDirectory, spec: RunSpec, client: ObjectClient, may_commit: Callable[[], None]
    ) -> None:
        self._outputs = [
            OutputUploader(directory.output(o.name), o, spec.key, client, may_commit, partial(lent, directory, o.name))
            for o in spec.outputs
        ]
        self._logs = [LogShipper(directory, spec.log_uri, client, part) for part in CHUNKS] if spec.log_uri else []
        self._samples = SampleShipper(directory.metrics, spec.log_uri, client) if spec.log_uri else None
        self._lock = threading.Lock()
        self.checkpoints = [output.checkpoints for output in self._outputs if output.checkpoints]
        self._checkpoint_lock = threading.Lock()  # they must not wait for a large file of another output

    @property
    def checkpoint(self) -> int | None:
        """The highest step of which a checkpoint is whole in the store."""
        return max((c.latest for c in self.checkpoints if c.latest is not None), default=None)

    def sync(self, closing: Callable[[], bool]) -> None:
        """Meanwhile: new log, and files that have settled."""
        with self._lock:
            for log in self._logs:
                if not closing():
                    log.ship()
            if self._samples and not closing():
                self._samples.ship()
            for output in self._outputs:
                output.sync(closing)

    def sync_checkpoints(self, closing: Callable[[], bool]) -> None:
        """Meanwhile, and more often: checkpoints that are whole."""
        with self._checkpoint_lock:
            for checkpoints in self.checkpoints:
                checkpoints.sync(closing)

    def finish(self, good: bool) -> dict[str, dict[str, Any]]:
        """At the end: everything, with manifests when the run was ``good``. The manifests of the outputs, by name."""
        self.sync_checkpoints(lambda: False)
        with self._lock:
            manifests = {output.output.name: output.finish(commit=good) for output in self._outputs}
            self._ship()
        return {name: manifest for name, manifest in manifests.items() if manifest is not None}

    def ship_log(self) -> None:
        with self._lock:
            self._ship()

    def _ship(self) -> None:
        for log in self._logs:
            log.ship(now=True)
        if self._samples:
            self._samples.ship(now=True)
