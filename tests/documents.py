"""The documentation as tests see it: pages, and the fenced blocks in them.

A block whose first line is ``# file: NAME`` is that file; ``<!-- not run: why -->`` on the line above a block leaves it
out. What is in ``sh`` and ``python`` blocks otherwise is run, from top to bottom.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
_FENCE = re.compile(r"^```(?P<language>[a-z]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# file: (?P<name>[\w./-]+)\n")
_NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\n\Z")


@dataclass(frozen=True)
class Block:
    """One fenced block. ``line`` is its first in the page; ``file`` is the name it is to be written to."""

    language: str
    text: str
    line: int
    file: str | None = None
    run: bool = True


def pages() -> list[Path]:
    """README, CONTRIBUTING and everything below ``docs``."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for fence in _FENCE.finditer(text):
        name = _FILE.match(fence["text"])
        found.append(
            Block(
                language=fence["language"],
                text=fence["text"],
                line=text.count("\n", 0, fence.start()) + 2,
                file=name["name"] if name else None,
                run=_NOT_RUN.search(text, 0, fence.start()) is None,
            )
        )
    return found
