"""What a folder of checkpoints holds, and which of it counts. Pure, but for ``read_sight`` and ``sights``, which look.

::

    step-500/            one checkpoint: what all ranks share, and the own part of the rank that wrote it
      contents.json      the structure; its tensors and arrays are in the other files
      model.pt           the tensors of ``model``, as torch.load(weights_only=True) reads them; so for other names
      blobs.bin          NumPy arrays and bytes
      manifest.json      sizes and SHA-256 of the others, written last: without it there is no checkpoint
    rank-1/step-500/     the own part of another rank
    .step-500.<rank>.*   being written, or left by a crash

A directory appears by one rename when all its files are on the disk. Steps are numbers: step-1000 follows step-500.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CONTENTS, MANIFEST, BLOBS = "contents.json", "manifest.json", "blobs.bin"
VERSION = 1
_STEP = re.compile(r"step-(0|[1-9][0-9]{0,17})")
_RANK = re.compile(r"rank-(0|[1-9][0-9]{0,8})")
_TEMPORARY = re.compile(r"\.step-[0-9]+\..*")
_CHUNK = 8 << 20


class Torn(Exception):
    """A checkpoint that is not whole; the text says in which way."""


@dataclass(frozen=True, order=True)
class Place:
    """One step directory by its parts. ``rank`` is None for what all ranks share."""

    step: int
    rank: int | None = None

    @property
    def name(self) -> str:
        """Relative to the folder of checkpoints."""
        return f"step-{self.step}" if self.rank is None else f"rank-{self.rank}/step-{self.step}"


@dataclass(frozen=True)
class Sight:
    """A checkpoint that somebody sees. ``line`` names one course of training, ``world`` how many ranks took part.

    ``rank`` wrote it, and its own part is inside; ``shared``: so is what all ranks share. ``keep`` is how many of its
    kind whoever wrote it keeps, which the platform follows; None: not known.
    """

    step: int
    rank: int
    world: int
    line: str
    shared: bool
    at: float = 0.0
    keep: int | None = None

    @property
    def place(self) -> Place:
        return Place(self.step, None if self.shared else self.rank)


@dataclass(frozen=True)
class Choice:
    """What is resumed: ``complete`` when the own part of every rank is there too."""

    step: int
    line: str
    complete: bool


def step_of(name: str) -> int | None:
    """``step-500`` → 500; None for every other name."""
    found = _STEP.fullmatch(name)
    return int(found[1]) if found else None


def rank_of(name: str) -> int | None:
    """``rank-1`` → 1; None for every other name."""
    found = _RANK.fullmatch(name)
    return int(found[1]) if found else None


def is_temporary(name: str) -> bool:
    """The name of a checkpoint that is being written."""
    return _TEMPORARY.fullmatch(name) is not None


def split(path: str) -> tuple[Place, str] | None:
    """``rank-1/step-500/contents.json`` → its place and ``contents.json``; None when it lies in no step directory."""
    first, _, rest = path.partition("/")
    rank = rank_of(first)
    if rank is not None:
        first, _, rest = rest.partition("/")
    step = step_of(first)
    return (Place(step, rank), rest) if step is not None and rest else None


def retired(steps: Iterable[int], written: int, keep: int) -> set[int]:
    """Which of the whole checkpoints go once ``written`` is one of them: all but the last ``keep`` up to it.

    Later steps are of a course that was given up for this one; they are the caller's to remove.
    """
    earlier = sorted(step for step in set(steps) if step <= written)
    return set(earlier[: max(len(earlier) - max(keep, 1), 0)])


def choose(sights: Iterable[Sight], world: int) -> Choice | None:
    """The checkpoint that all of ``world`` ranks resume: the highest step of which every rank's own part is seen.

    Where there is none such, the highest one with what is shared; ranks without a part of their own begin theirs anew.
    Of the same step in two courses of training the one written later counts.
    """
    found: dict[tuple[int, str], list[Sight]] = {}
    for sight in sights:
        found.setdefault((sight.step, sight.line), []).append(sight)
    best: tuple[bool, int, float, str] | None = None
    for (step, line), parts in found.items():
        shared = [part for part in parts if part.shared]
        if not shared:
            continue
        needed = range(min(world, shared[0].world))
        complete = {part.rank for part in parts}.issuperset(needed)
        rating = (complete, step, max(part.at for part in shared), line)
        best = rating if best is None else max(best, rating)
    return Choice(best[1], best[3], best[0]) if best else None


def manifest_bytes(sight: Sight, files: Mapping[str, tuple[int, str]]) -> bytes:
    """The manifest of a checkpoint; ``files`` maps names to sizes and SHA-256 digests."""
    document = {
        "version": VERSION,
        "step": sight.step,
        "rank": sight.rank,
        "world": sight.world,
        "line": sight.line,
        "shared": sight.shared,
        "at": sight.at,
        "keep": sight.keep,
        "files": [{"name": name, "size": size, "sha256": digest} for name, (size, digest) in sorted(files.items())],
    }
    return (json.dumps(document, indent=1) + "\n").encode()


def parse_manifest(data: bytes) -> tuple[Sight, dict[str, tuple[int, str]]]:
    """The inverse of ``manifest_bytes``. Raises Torn."""
    try:
        document: dict[str, Any] = json.loads(data)
        if document["version"] != VERSION:
            raise Torn(f"its format is version {document['version']!r}, and this is {VERSION}: use a newer modelworks")
        files = {str(item["name"]): (int(item["size"]), str(item["sha256"])) for item in document["files"]}
        sight = Sight(
            step=int(document["step"]),
            rank=int(document["rank"]),
            world=int(document["world"]),
            line=str(document["line"]),
            shared=bool(document["shared"]),
            at=float(document["at"]),
            keep=None if document.get("keep") is None else int(document["keep"]),
        )
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise Torn(f"{MANIFEST} cannot be read ({type(error).__name__})") from None
    if any("/" in name or name in ("", ".", "..", MANIFEST) or "\0" in name for name in files) or CONTENTS not in files:
        raise Torn(f"{MANIFEST} names files that no checkpoint has")
    return sight, files


def check_sizes(expected: Mapping[str, tuple[int, str]], present: Mapping[str, int]) -> None:
    """Every file is there and as long as its manifest says. Raises Torn naming the first that is not."""
    for name, (size, _) in sorted(expected.items()):
        if name not in present:
            raise Torn(f"{name} is missing")
        if present[name] != size:
            raise Torn(f"{name} has {present[name]} of {size} bytes")


def read_sight(directory: Path, *, digests: bool = False) -> Sight:
    """The checkpoint in a step directory, checked by the sizes of its files, or by their ``digests``. Raises Torn."""
    try:
        sight, files = parse_manifest((directory / MANIFEST).read_bytes())
        check_sizes(files, {entry.name: entry.stat().st_size for entry in os.scandir(directory)})
        if digests:
            for name, (_, digest) in files.items():
                if file_digest(directory / name) != digest:
                    raise Torn(f"{name} is not what was written: its SHA-256 differs")
    except FileNotFoundError as error:
        raise Torn(f"{Path(error.filename).name} is missing") from None
    except OSError as error:
        raise Torn(f"it cannot be read: {error.strerror or error}") from None
    if sight.step != step_of(directory.name):
        raise Torn(f"{MANIFEST} is of step {sight.step}")
    return sight


def sights(root: Path, skip: Collection[Place] = ()) -> tuple[list[Sight], dict[Place, str]]:
    """All checkpoints below a folder that look whole by their sizes, and what is wrong with the others of ours."""
    found, torn = [], {}
    for place in places(root):
        if place in skip:
            continue
        try:
            found.append(read_sight(root / place.name))
        except Torn as error:
            if is_ours(root / place.name):
                torn[place] = str(error)
    return found, torn


def places(root: Path) -> list[Place]:
    """The step directories below a folder, lowest step first, whole or not."""
    found: list[tuple[int | None, int | None]] = []
    for name in _directories(root):
        rank = rank_of(name)
        if rank is None:
            found.append((step_of(name), None))
        else:
            found += [(step_of(inner), rank) for inner in _directories(root / name)]
    return sorted((Place(step, rank) for step, rank in found if step is not None), key=lambda p: (p.step, p.name))


def is_ours(directory: Path) -> bool:
    """Whether this module's kind of checkpoint was ever in it; anybody may name a folder ``step-500``."""
    return (directory / CONTENTS).exists() or (directory / MANIFEST).exists()


def file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(_CHUNK):
            digest.update(data)
    return digest.hexdigest()


def _directories(root: Path) -> Sequence[str]:
    try:
        return [entry.name for entry in os.scandir(root) if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []
