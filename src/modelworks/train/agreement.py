"""The ranks agree on the checkpoint that they resume, and who has it hands it to those that do not. All collective."""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from pathlib import Path
from typing import Any

from modelworks.train import files, group, layout
from modelworks.train.layout import Choice, Place, Sight, Torn

log = logging.getLogger("modelworks.train")


def agree(folder: Path, step: int | None, skipped: set[Place]) -> tuple[Choice | None, list[list[Sight]]]:
    """What all ranks resume, and what each of them sees."""
    found, torn = layout.sights(folder, skipped)
    for place, why in torn.items():
        log.warning("the checkpoint %s is passed over: %s", place.name, why)
        skipped.add(place)
    everybody = group.gather([sight for sight in found if step is None or sight.step == step])
    choice = layout.choose((sight for seen in everybody for sight in seen), group.size())
    return choice, everybody


def fetch(
    folder: Path, choice: Choice, everybody: list[list[Sight]], skipped: set[Place]
) -> tuple[dict[str, Any], bool] | None:
    """The states of the chosen step for this rank, and whether each rank has a part of its own; None if a copy is torn.

    Every rank goes through the same calls in here, whatever it sees itself.
    """
    fits = [[s for s in seen if (s.step, s.line) == (choice.step, choice.line)] for seen in everybody]
    mine = fits[group.rank()]
    read: dict[Place, dict[str, Any]] = {}
    problem = None
    for sight in mine:
        try:
            layout.read_sight(folder / sight.place.name, digests=True)
            read[sight.place] = files.read(folder / sight.place.name)
        except Torn as error:
            log.warning("the checkpoint %s is passed over: %s", sight.place.name, error)
            skipped.add(sight.place)
            problem = str(error)
    if any(said is not None for said in group.gather(problem)):
        return None
    holders = [rank for rank, seen in enumerate(fits) if any(sight.shared for sight in seen)]
    shared = read.get(Place(choice.step))
    if len(holders) < group.size():
        received = _pass_round(folder / Place(choice.step).name, holders[0], keep=shared is None)
        shared = shared if shared is not None else received
    parts = {s.rank: {n: v for n, v in read[s.place].items() if n in ("rng", "loader")} for s in mine}
    everyone: dict[int, dict[str, Any]] = {
        rank: part for seen in reversed(group.gather(parts)) for rank, part in seen.items()
    }
    states: dict[str, Any] = dict(shared or {})
    exact = all(rank in everyone for rank in range(group.size()))
    if group.rank() in everyone:
        return states | everyone[group.rank()], exact
    log.warning("step-%d has no part of rank %d: its generators begin anew", choice.step, group.rank())
    states.pop("rng", None)
    return states, exact


def _pass_round(directory: Path, source: int, *, keep: bool) -> dict[str, Any]:
    """What all ranks share, from the rank that has it to those that do not."""
    leads = group.rank() == source
    names = sorted(os.listdir(directory)) if leads else []
    sizes = group.gather({name: (directory / name).stat().st_size for name in names})[source]
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as copy, contextlib.ExitStack() as stack:
        for name, size in sizes.items():
            source_file = stack.enter_context((directory / name).open("rb")) if leads else None
            target = stack.enter_context((Path(copy) / name).open("wb")) if keep else None
            for _, length in group.chunks(size):
                data = group.send_bytes(source_file.read(length) if source_file else None, length, source)
                if target:
                    target.write(data)
            if target:
                target.flush()
        return files.read(Path(copy)) if keep else {}
