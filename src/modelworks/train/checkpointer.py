"""Checkpoints of a training loop: saved beside it, kept by number, resumed by all ranks at the same step."""

from __future__ import annotations

import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelworks.train import agreement, files, group, layout, paths, progress, rng, tree
from modelworks.train.files import HostBuffers, Snapshot
from modelworks.train.layout import Place, Sight, Torn

log = logging.getLogger("modelworks.train")

EVERY, KEEP = 500, 3
_OWN_EXTRA = 8  # own parts are small, and a rank may be ahead of the one that writes what is shared
_RESERVED = ("rng", "manifest", "contents", "blobs")


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, or does not fit what is to be restored from it."""


@dataclass(frozen=True)
class Saved:
    """A whole checkpoint on this machine."""

    step: int
    path: Path

    def load(self) -> dict[str, Any]:
        """Its states by name (``model``, ``optimizer`` …), tensors on the CPU. Raises CheckpointError."""
        try:
            return files.read(self.path)
        except Torn as error:
            raise CheckpointError(str(error)) from error


@dataclass(frozen=True)
class Restored:
    """What ``restore`` found: the step, and every state by name, of which those that were passed in are set already."""

    step: int
    state: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = True  # every rank had a part of its own: generators and position of the loader are the saved ones


class Checkpointer:
    """Checkpoints in ``folder``, by default the job's: ``$MW_CHECKPOINT_DIR``.

    ``keep`` of them stay (``$MW_CHECKPOINT_KEEP``, 3); ``maybe`` saves each ``every`` steps (``$MW_CHECKPOINT_EVERY``,
    500). ``everywhere``: one process of each replica writes what all ranks share, and not rank 0 alone; the default
    where replicas may come and go (``$PET_NNODES`` is a range).
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        keep: int | None = None,
        every: int | None = None,
        everywhere: bool | None = None,
    ) -> None:
        self._folder = Path(folder) if folder is not None else None
        self._keep, self._every = keep, every
        self._everywhere = everywhere
        self._buffers = HostBuffers()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._line: str | None = None
        self._resumed = False
        self._last: int | None = None
        self._tidied = False

    @property
    def folder(self) -> Path:
        return self._folder if self._folder is not None else paths.checkpoints()

    @property
    def keep(self) -> int:
        return self._keep if self._keep is not None else _setting("MW_CHECKPOINT_KEEP", KEEP)

    @property
    def every(self) -> int:
        return self._every if self._every is not None else _setting("MW_CHECKPOINT_EVERY", EVERY)

    # -- saving -------------------------------------------------------------------------------------------------

    def maybe(self, step: int, **states: Any) -> bool:
        """``save`` when ``step`` is a multiple of ``every``; whether it did."""
        if step <= 0 or step % self.every:
            return False
        self.save(step, **states)
        return True

    def save(
        self,
        step: int,
        *,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        loader: Any = None,
        wait: bool = False,
        **state: Any,
    ) -> None:
        """Save the states after ``step`` steps; every rank calls it, and none waits for another.

        Returns when everything is copied into memory that is used again each time; a thread writes it. ``state`` may
        hold more of what has ``state_dict()`` (a GradScaler, say), and plain values. Rank 0 writes what all ranks
        share; each writes its generators and its ``loader``. With ``wait`` it is on the disk afterwards.

        Raises CheckpointError when the checkpoint before it could not be written; TypeError for what cannot be kept.
        """
        self.wait()
        if self._last != step:
            given = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": loader} | state
            _check_names(given)
            sight = self._sight(step, shared=self._is_shared())
            self._tidy(sight)
            snapshot = self._snapshot({name: value for name, value in given.items() if value is not None}, sight)
            self._begin(sight, lambda: files.write(self.folder, sight, snapshot))
        if wait:
            self.wait()

    def adopt(self, step: int, source: Path, kind: str) -> None:
        """Keep what a framework has saved into the folder ``source`` as a checkpoint; its files may go afterwards.

        One process of each replica calls it. Raises CheckpointError for a checkpoint in folders.
        """
        self.wait()
        sight = self._sight(step, shared=True)
        try:
            temporary = self.stage(step)
            files.link(source, temporary)
        except (Torn, OSError) as error:
            raise CheckpointError(f"the checkpoint of step {step} cannot be kept: {error}") from error
        self._begin(sight, lambda: files.adopt(temporary, self.folder, sight, kind))

    def stage(self, step: int) -> Path:
        """A folder beside the checkpoints into which a framework can save one, for ``adopt``. Raises OSError."""
        sight = self._sight(step, shared=True)
        self._tidy(sight)
        return files.begin(self.folder, sight)

    def _sight(self, step: int, *, shared: bool) -> Sight:
        return Sight(step, group.rank(), group.size(), self._course(), shared, time.time(), self._kept(shared))

    def _kept(self, shared: bool) -> int:
        return self.keep if shared else self.keep + _OWN_EXTRA

    def agreed(self) -> Saved | None:
        """The latest checkpoint that every replica has on its machine, for a framework to resume.

        Every rank calls it where ``torch.distributed`` is initialised; before that each process looks for itself.
        """
        if group.size() == 1:
            return self.latest()
        found, _ = layout.sights(self.folder)
        steps = group.gather({sight.step for sight in found if sight.shared})
        for step in sorted(set.intersection(*steps), reverse=True):
            path = self.folder / Place(step).name
            try:
                layout.read_sight(path, digests=True)
                torn = False
            except Torn:
                torn = True
            if not any(group.gather(torn)):
                return Saved(step, path)
        return None

    def wait(self) -> None:
        """Until the last save is whole on the disk. Raises CheckpointError when it could not be written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error, self._last = self._error, None, None
            raise CheckpointError(f"the last checkpoint could not be written to {self.folder}: {error}") from error

    def _is_shared(self) -> bool:
        if group.rank() == 0:
            if group.size() == 1 and group.local_rank() != 0:
                raise CheckpointError(
                    "this is one of several processes of its replica, and they do not know each other: "
                    "call torch.distributed.init_process_group() before checkpoint.save()"
                )
            return True
        everywhere = self._everywhere
        if everywhere is None:
            everywhere = ":" in os.environ.get("PET_NNODES", "")
        return everywhere and group.local_rank() == 0

    def _snapshot(self, given: Mapping[str, Any], sight: Sight) -> Snapshot:
        leaves = tree.Leaves()
        own = {"rng": rng.capture()}
        shared = {}
        for name, value in given.items():
            if name == "loader":
                own[name] = _state(value)
            elif sight.shared:
                shared[name] = _state(value)
        structure = {name: tree.encode(value, name, leaves) for name, value in (shared | own).items()}
        return Snapshot(structure, self._buffers.copy(leaves.tensors), leaves.blobs)

    def _tidy(self, sight: Sight) -> None:
        if not self._tidied:
            files.remove_unfinished((self.folder / sight.place.name).parent, sight.rank)
            self._tidied = True

    def _begin(self, sight: Sight, write: Callable[[], object]) -> None:
        self._thread = threading.Thread(target=self._write, args=(sight, write), name=f"checkpoint-{sight.step}")
        self._thread.start()
        self._last = sight.step

    def _write(self, sight: Sight, write: Callable[[], object]) -> None:
        try:
            write()
            progress.checkpointed(sight.step)
            self._retain(sight)
        except BaseException as error:  # told by the next save, which the loop is in; this thread has nobody to tell
            self._error = error
            log.error("the checkpoint of step %d could not be written: %s", sight.step, error)

    def _retain(self, written: Sight) -> None:
        rank = written.place.rank
        found, torn = layout.sights(self.folder)
        whole = [sight for sight in found if sight.place.rank == rank]
        gone = layout.retired([sight.step for sight in whole], written.step, self._kept(written.shared))
        # What lies ahead of a resumed course was seen by some ranks only, or was left for an earlier step.
        ahead = {s.step for s in whole if self._resumed and s.step > written.step and s.line != written.line}
        broken = {place.step for place in torn if place.rank == rank and place.step < written.step}
        for step in gone | ahead | broken:
            files.remove(self.folder / Place(step, rank).name)

    def _course(self) -> str:
        if self._line is None:
            # The same on all ranks without asking: a save that only one of them calls must not hang.
            known = (os.environ.get(name, "") for name in ("MW_ATTEMPT", "TORCHELASTIC_RESTART_COUNT"))
            self._line = ".".join(known)
        return self._line

    # -- resuming -----------------------------------------------------------------------------------------------

    def latest(self) -> Saved | None:
        """The highest step that is whole in this folder, checked by its digests; torn ones are passed over with a word.

        Each process looks for itself: ``restore`` is what makes ranks agree.
        """
        found, torn = layout.sights(self.folder)
        for place, why in torn.items():
            log.warning("the checkpoint %s is passed over: %s", place.name, why)
        for sight in sorted((sight for sight in found if sight.shared), key=lambda s: s.step, reverse=True):
            path = self.folder / sight.place.name
            try:
                layout.read_sight(path, digests=True)
            except Torn as error:
                log.warning("the checkpoint %s is passed over: %s", sight.place.name, error)
            else:
                return Saved(sight.step, path)
        return None

    def restore(
        self,
        *,
        model: Any = None,
        optimizer: Any = None,
        scheduler: Any = None,
        loader: Any = None,
        step: int | None = None,
        **state: Any,
    ) -> Restored | None:
        """Set the given states to those of the latest checkpoint that all ranks have, or of ``step``; None without one.

        Every rank calls it, after ``init_process_group`` and at the same place, since they agree here. A rank whose
        machine has no copy is sent one. The generators are set last. Raises CheckpointError when the checkpoint lacks
        something that is asked for.
        """
        given = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": loader} | state
        wanted = {name: value for name, value in given.items() if value is not None}
        self.wait()
        skipped: set[Place] = set()
        while True:
            choice, everybody = agreement.agree(self.folder, step, skipped)
            if choice is None:
                self._begin_course(None)
                return None
            fetched = agreement.fetch(self.folder, choice, everybody, skipped)
            if fetched is not None:
                break
        states, exact = fetched
        for name, value in wanted.items():
            if name not in states:
                kept = ", ".join(sorted(states)) or "nothing"
                raise CheckpointError(f"step-{choice.step} holds no {name!r} (it holds {kept}): it was saved without")
            if hasattr(value, "load_state_dict"):
                _unwrapped(value).load_state_dict(states[name])
        self._begin_course(step)
        generators = states.pop("rng", None)
        if generators is not None:
            rng.restore(generators)
        return Restored(choice.step, states, exact)

    def _begin_course(self, step: int | None) -> None:
        self._line = group.gather(secrets.token_hex(6))[0]
        self._resumed = step is None
        self._last = None


def _state(value: Any) -> Any:
    value = _unwrapped(value)
    return value.state_dict() if hasattr(value, "state_dict") else value


def _unwrapped(value: Any) -> Any:
    """The module inside DistributedDataParallel and torch.compile, so that a checkpoint fits with and without them."""
    while type(value).__name__ in ("DistributedDataParallel", "DataParallel", "OptimizedModule"):
        value = value.module if hasattr(value, "module") else value._orig_mod
    return value


def _check_names(given: Mapping[str, Any]) -> None:
    for name in given:
        if name in _RESERVED:
            raise CheckpointError(f"a state cannot be called {name!r}: the checkpoint has a file of that name")


def _setting(variable: str, otherwise: int) -> int:
    text = os.environ.get(variable)
    if not text:
        return otherwise
    if not text.isdecimal() or int(text) < 1:
        raise CheckpointError(f"{variable} is {text!r}: a number from 1 on is meant")
    return int(text)
