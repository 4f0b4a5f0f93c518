"""The line of a log that says why its program failed. Pure.

Mostly it is the last one. ``torchrun`` writes a traceback of its own and a report behind what its ranks said, and ends
with a bar: there it is the last line of the rank that it found to have failed first. What a service wrote of a request
that it answered is no reason for its end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_REPORT = "torch.distributed.elastic.multiprocessing.errors.ChildFailedError"
_TRACEBACK = "Traceback (most recent call last):"
_RANK = re.compile(r"\s*rank\s*: (\d+) ")
_SIGNAL = re.compile(r"\s*traceback\s*: (Signal \d+ .*)")
_AGENT = re.compile(r"[EWI]\d{4} .*torch/distributed/elastic/")
_WORD = re.compile(r"\w")
# What the model server writes below the traceback of a request (``server/problems.py``).
_ANSWERED = "modelworks: a request failed for this reason; the server goes on"
_PLATFORM = "modelworks: "
_STACKS = f"{_PLATFORM}what every process does, at "


def last_words(lines: Sequence[str]) -> str:
    """Empty where no line says anything. Bars and the like say nothing."""
    answered = max((number for number, line in enumerate(lines) if line.startswith(_ANSWERED)), default=None)
    if answered is not None:
        lines = lines[answered + 1 :]
    report = max((number for number, line in enumerate(lines) if line.startswith(_REPORT)), default=None)
    if report is None:
        return _last(lines)
    rank, killed = _root_cause(lines[report:])
    if killed:
        return killed
    before = [line for line in lines[: _begin(lines, report)] if not _AGENT.match(line)]
    own = [line for line in before if line.startswith(f"[rank{rank}]:")]
    return _last(own) or _last(before) or _last(lines)


def own_words(lines: Sequence[str]) -> list[str]:
    """The lines without the stacks that the platform has written among them."""
    own, within = [], False
    for line in lines:
        within = line.startswith(_STACKS) or (within and line.startswith(_PLATFORM))
        if not within:
            own.append(line)
    return own


def _root_cause(report: Sequence[str]) -> tuple[str | None, str]:
    """Which rank failed first, and by which signal, if it was one."""
    begin = next((number for number, line in enumerate(report) if line.startswith("Root Cause")), 0)
    rank, killed = None, ""
    for line in report[begin:]:
        if found := _RANK.match(line):
            rank = found[1]
        elif found := _SIGNAL.match(line):
            killed = found[1].strip()
    return rank, f"rank {rank}: {killed}" if killed and rank is not None else killed


def _begin(lines: Sequence[str], report: int) -> int:
    """Where the traceback of the launcher itself begins."""
    return next((number for number in range(report, -1, -1) if lines[number].startswith(_TRACEBACK)), report)


def _last(lines: Sequence[str]) -> str:
    return next((line.strip() for line in reversed(lines) if _WORD.search(line)), "")
