"""Checkpoints of ``modelworks.train`` between a run and the object store: whole ones only, in both directions.

A step directory is sent within about a second of its appearance, its ``contents.json`` first and its manifest last.
So in the store a step without manifest is torn, and one without both is a folder that only has such a name.
"""

from __future__ import annotations

import logging
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelworks.kernel.errors import Conflict, Forbidden, NotFound
from modelworks.objectstore import transfer
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.uri import ObjectUri
from modelworks.train import layout
from modelworks.train.layout import CONTENTS, MANIFEST, Place, Torn

log = logging.getLogger(__name__)

PERIOD = 1.0  # seconds between looks
_PARALLEL = 4
_MOST_MANIFEST = 4 << 20  # bytes
# What an attempt begins with: the newest of each, since a rank may have to go back to where the others are.
_RESTORED, _RESTORED_OWN = 3, 11
_LOOKS = 3
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Late(Exception):
    """What the attempt after this one restores must not change any more."""


@dataclass(frozen=True)
class Whole:
    """A checkpoint in the store: inode and time of its manifest's file here, and how many are kept as that says."""

    version: tuple[int, int]
    keep: int | None


@dataclass(frozen=True)
class Left:
    """A step directory that earlier attempts sent: into which folders, and whether one of them has its manifest."""

    folders: tuple[ObjectUri, ...]
    whole: bool


class CheckpointUploader:
    """The checkpoints in one folder. Not for several threads at once; ``earlier`` are the attempts before this one.

    ``may_write`` raises Conflict when another attempt may have begun: then this one has nothing more to say.
    """

    def __init__(
        self,
        directory: Path,
        root: ObjectUri,
        earlier: Sequence[ObjectUri],
        client: ObjectClient,
        may_write: Callable[[], None] = lambda: None,
    ) -> None:
        self.directory = directory
        self.root = root.folder
        self.client = client
        self._earlier = [uri.folder for uri in earlier]
        self._may_write = may_write
        self._here: dict[Place, Whole] = {}  # whole under ``root``
        self._earlier_has: dict[Place, Whole] = {}  # as an earlier attempt sent it
        self._left: dict[Place, Left] | None = None  # all that those sent, once it was looked for
        self._looked = False

    @property
    def latest(self) -> int | None:
        """The highest step that is whole in the store, of this attempt or those before it."""
        return max((place.step for place in (*self._here, *self._earlier_has)), default=None)

    def sync(self, closing: Callable[[], bool] = lambda: False) -> None:
        """Send what is new, the newest first, then drop what is gone here; stop early when the run is ``closing``."""
        try:
            self._sync(closing)
        except Late as error:
            log.info("%s: nothing more is sent or deleted: %s", self.root, error)

    def _sync(self, closing: Callable[[], bool]) -> None:
        present = layout.places(self.directory)
        for place in sorted(present, key=lambda p: (-p.step, p.rank is None)):
            if closing():
                return
            self._check()
            try:
                with _opened(self.directory, place) as files:
                    self._send(place, files)
            except (FileNotFoundError, NotADirectoryError):
                continue  # retention was faster than we
            except Torn as error:
                log.info("%s/%s is not uploaded: %s", self.root, place.name, error)
        self._looked = True
        self._prune(set(present))

    def _send(self, place: Place, files: dict[str, int]) -> None:
        if MANIFEST not in files:
            return
        status = os.fstat(files[MANIFEST])
        version = (status.st_ino, status.st_mtime_ns)
        for known in (self._here, self._earlier_has):
            if place in known and known[place].version == version:
                return
        manifest = os.pread(files[MANIFEST], _MOST_MANIFEST, 0)
        sight, expected = layout.parse_manifest(manifest)
        layout.check_sizes(expected, {name: os.fstat(file).st_size for name, file in files.items()})
        whole = Whole(version, sight.keep)
        target = self.root / place.name
        if not self._looked:
            # An agent that was started again, or what was restored: it need not be sent twice.
            for folder in (self.root, *self._earlier):
                if self._get(folder / place.name / MANIFEST) == manifest:
                    (self._here if folder == self.root else self._earlier_has)[place] = whole
                    return
        if place in self._here:
            self.client.delete(target / MANIFEST)  # the same step once more: torn until it is whole again
            del self._here[place]
        self._upload(files[CONTENTS], target / CONTENTS)
        with ThreadPoolExecutor(_PARALLEL) as pool:
            rest = [name for name in expected if name != CONTENTS]
            for done in [pool.submit(self._upload, files[name], target / name) for name in rest]:
                done.result()
        self._check()  # it took its time
        self.client.put(target / MANIFEST, manifest)
        self._earlier_has.pop(place, None)
        self._here[place] = whole

    def _upload(self, descriptor: int, uri: ObjectUri) -> None:
        transfer.upload(self.client, Path(f"/proc/self/fd/{descriptor}"), uri)

    def _prune(self, present: set[Place]) -> None:
        """Delete what retention has removed, while something newer is whole; the last one stays whatever happens."""
        stays = {place.rank for place in present if place in self._here}
        for place in [place for place in self._here if place not in present and place.rank in stays]:
            self._check()
            delete(self.client, self.root / place.name)
            del self._here[place]
        for place in [place for place in self._earlier_has if place not in present and place.rank in stays]:
            del self._earlier_has[place]
        if stays and self._earlier:
            self._prune_earlier(present)

    def _prune_earlier(self, present: set[Place]) -> None:
        """What earlier attempts left goes as if all were one: a job keeps so many, however often it was preempted."""
        sent = sorted(present & self._here.keys(), key=lambda place: place.step)
        newest = {place.rank: self._here[place].keep for place in sent}
        try:
            if self._left is None:
                self._left = self._listed()
            known = {place: left.whole for place, left in self._left.items()}
            for place in surplus(known, present & (self._here.keys() | self._earlier_has.keys()), present, newest):
                for folder in self._left[place].folders:
                    self._check()
                    delete(self.client, folder / place.name)
                del self._left[place]
        except Forbidden as error:
            log.warning("%s: checkpoints of earlier attempts stay: %s", self.root, error.detail)
            self._left = {}

    def _listed(self) -> dict[Place, Left]:
        """The step directories of earlier attempts."""
        found: dict[Place, Left] = {}
        for folder in self._earlier:
            names = [layout.split(item.key.removeprefix(folder.key)) for item in self.client.list(folder)]
            ours = [name for name in names if name is not None and name[1] in (CONTENTS, MANIFEST)]
            for place in {place for place, _ in ours}:
                before = found.get(place, Left((), False))
                found[place] = Left((*before.folders, folder), before.whole or (place, MANIFEST) in ours)
        return found

    def _check(self) -> None:
        try:
            self._may_write()
        except Conflict as error:
            raise Late(error.detail) from error

    def _get(self, uri: ObjectUri) -> bytes | None:
        try:
            return self.client.get(uri)
        except NotFound:
            return None


def surplus(
    left: Mapping[Place, bool], whole: Set[Place], present: Set[Place], keep: Mapping[int | None, int | None]
) -> list[Place]:
    """What goes of ``left``, the checkpoints of earlier attempts (and whether each is whole). Pure.

    ``present`` are those in this attempt's folder, ``whole`` those of them that are in the store. Only the newest few
    were restored: that one is not here says nothing, unless it is newer than all that are. Of the others ``keep`` stay
    for each rank of which something new was sent, counted with what is here; None: nobody knows how many, so all do.
    """
    gone: list[Place] = []
    for rank, count in keep.items():
        top = max((place.step for place in present if place.rank == rank), default=None)
        if top is None:
            continue
        absent = sorted(place for place in left if place.rank == rank and place not in present)
        # A course that was given up, and what was cut off in the middle of its upload.
        useless = [place for place in absent if place.step > top or not left[place]]
        older = [place.step for place in absent if place not in useless]
        steps = sorted({*older, *(place.step for place in whole if place.rank == rank)})
        retired = steps[: max(len(steps) - max(count, 1), 0)] if count is not None else []
        gone += [*useless, *(Place(step, rank) for step in older if step in retired)]
    return gone


def delete(client: ObjectClient, uri: ObjectUri) -> None:
    """A checkpoint in the store is gone; one that is half deleted does not look whole, and still looks like one."""
    client.delete(uri / MANIFEST)
    rest = [item.key for item in client.list(uri)]
    for key in sorted(rest, key=lambda key: key.endswith(f"/{CONTENTS}")):
        client.delete(ObjectUri(uri.bucket, key))


def restore(
    client: ObjectClient, uris: Sequence[ObjectUri], directory: Path, lent: Sequence[ObjectUri] = ()
) -> list[str]:
    """What earlier attempts left, the latest of them first in ``uris``, as files below ``directory``.

    Of checkpoints the newest few that are whole; of all other files each, and of the same name the first. Of ``lent``
    only other files, of names that there are none of; these are returned. What is gone between the look and the fetch
    was retired meanwhile, so there is another look.
    """
    for left in reversed(range(_LOOKS)):
        wanted = _wanted(client, uris)
        borrowed = {name: uri for name, uri in _plain(client, lent).items() if name not in wanted}
        try:
            transfer.download_named(client, wanted | borrowed, directory)
            return sorted(borrowed)
        except NotFound as error:
            if not left:
                raise
            log.info("restoring once more: %s", error.detail)
            for place in layout.places(directory):  # not to be taken for something by whoever looks here
                if layout.is_ours(directory / place.name):
                    shutil.rmtree(directory / place.name)
    raise AssertionError("the last look returns or raises")


def _plain(client: ObjectClient, uris: Sequence[ObjectUri]) -> dict[str, ObjectUri]:
    """All files but those of checkpoints, by their names; of the same name the first."""
    found: dict[str, ObjectUri] = {}
    for uri in (uri.folder for uri in uris):
        for item in client.list(uri):
            name = item.key.removeprefix(uri.key)
            if name and not name.endswith("/") and layout.split(name) is None:
                found.setdefault(name, uri / name)
    return found


def _wanted(client: ObjectClient, uris: Sequence[ObjectUri]) -> dict[str, ObjectUri]:
    """What to restore, by the names it gets."""
    wanted: dict[str, ObjectUri] = {}
    steps: dict[Place, list[tuple[ObjectUri, dict[str, int]]]] = {}
    for uri in (uri.folder for uri in uris):
        groups: dict[Place, dict[str, int]] = {}
        plain: list[str] = []
        for item in client.list(uri):
            name = item.key.removeprefix(uri.key)
            found = layout.split(name)
            if found is not None:
                groups.setdefault(found[0], {})[found[1]] = item.size
            elif not name.endswith("/"):
                plain.append(name)
        for place, files in groups.items():
            if CONTENTS in files or MANIFEST in files:
                steps.setdefault(place, []).append((uri, files))
            else:
                plain += [f"{place.name}/{name}" for name in files if not name.endswith("/") and name]
        for name in plain:
            wanted.setdefault(name, uri / name)
    for rank in {place.rank for place in steps}:
        mine = sorted((place for place in steps if place.rank == rank), reverse=True, key=lambda place: place.step)
        wanted |= _newest(client, mine, steps, _RESTORED if rank is None else _RESTORED_OWN)
    return wanted


def _newest(
    client: ObjectClient,
    places: Sequence[Place],
    steps: dict[Place, list[tuple[ObjectUri, dict[str, int]]]],
    count: int,
) -> dict[str, ObjectUri]:
    """The objects of the first ``count`` places that some attempt has whole, by the names they get."""
    found: dict[str, ObjectUri] = {}
    for place in places:
        for uri, present in steps[place]:
            folder = uri / place.name
            try:
                if MANIFEST not in present:
                    raise Torn(f"{MANIFEST} is missing")
                _, expected = layout.parse_manifest(client.get(folder / MANIFEST))
                layout.check_sizes(expected, present)
            except (Torn, NotFound) as error:
                log.info("%s is passed over: %s", folder, error)
                continue
            found |= {f"{place.name}/{name}": folder / name for name in (*expected, MANIFEST)}
            count -= 1
            break
        if count == 0:
            break
    return found


def is_checkpoint(directory: Path, path: str) -> bool:
    """Whether the file ``path`` below ``directory`` is part of a checkpoint, whole or being written."""
    parts = path.split("/")
    if layout.is_temporary(parts[1] if layout.rank_of(parts[0]) is not None and len(parts) > 1 else parts[0]):
        return True
    found = layout.split(path)
    return found is not None and layout.is_ours(directory / found[0].name)


@contextmanager
def _opened(root: Path, place: Place) -> Iterator[dict[str, int]]:
    """The files of a step directory, open: what is renamed or deleted meanwhile stays. No links are followed."""
    with ExitStack() as stack:

        def opened(name: str, flags: int, folder: int | None) -> int:
            descriptor = os.open(name, _FLAGS | flags, dir_fd=folder)
            stack.callback(os.close, descriptor)
            return descriptor

        folder = opened(str(root), os.O_DIRECTORY, None)
        for part in place.name.split("/"):
            folder = opened(part, os.O_DIRECTORY, folder)
        files = {}
        for name in os.listdir(folder):
            status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                files[name] = opened(name, 0, folder)
        yield files
