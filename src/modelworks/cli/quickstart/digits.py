"""The UCI handwritten digits that scikit-learn ships, split for training and for asking the service.

Nothing of scikit-learn is imported: that would take longer than to read its file.
"""

from __future__ import annotations

import gzip
import importlib.util
import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modelworks.kernel.errors import SetupFailed

HELD_OUT = 360
_SEED = 20
_PIXELS = 64


@dataclass(frozen=True)
class Image:
    """``pixels`` are 64 numbers from 0 to 16, row by row."""

    pixels: tuple[int, ...]
    label: int


def load() -> list[Image]:
    """All 1797 images. Raises SetupFailed when scikit-learn is not installed."""
    spec = importlib.util.find_spec("sklearn")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    path = next((p for f in folders if (p := Path(f) / "datasets" / "data" / "digits.csv.gz").is_file()), None)
    if path is None:
        raise SetupFailed(
            "the quickstart takes its data from scikit-learn, which is not installed",
            remedy="pip install 'modelworks[server,quickstart]'",
        )
    with gzip.open(path, "rt") as file:
        rows = [[int(float(cell)) for cell in line.split(",")] for line in file if line.strip()]
    return [Image(tuple(row[:_PIXELS]), row[_PIXELS]) for row in rows]


def split(images: Sequence[Image], held_out: int = HELD_OUT, seed: int = _SEED) -> tuple[list[Image], list[Image]]:
    """(training, held out): shuffled, and stratified so that every label has its share in both; the same every time."""
    chance = random.Random(seed)
    by_label: dict[int, list[Image]] = defaultdict(list)
    for image in images:
        by_label[image.label].append(image)
    exact = {label: held_out * len(found) / len(images) for label, found in sorted(by_label.items())}
    shares = {label: int(share) for label, share in exact.items()}
    by_rest = sorted(exact, key=lambda label: (shares[label] - exact[label], label))
    for label in by_rest[: held_out - sum(shares.values())]:
        shares[label] += 1
    training: list[Image] = []
    held: list[Image] = []
    for label, share in shares.items():
        found = by_label[label]
        chance.shuffle(found)
        held += found[:share]
        training += found[share:]
    chance.shuffle(training)
    chance.shuffle(held)
    return training, held


def as_csv(images: Sequence[Image]) -> bytes:
    """A header, then 64 pixels and the label in each line."""
    lines = [",".join([*(f"pixel_{index}" for index in range(_PIXELS)), "label"])]
    lines += [",".join(map(str, (*image.pixels, image.label))) for image in images]
    return ("\n".join(lines) + "\n").encode()
