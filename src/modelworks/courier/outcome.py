"""What follows from one attempt of a task. Pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from modelworks.gateway.problems import Problem

_FIRST_DELAY, _LONGEST_DELAY = 0.5, 60.0  # seconds before another attempt
_BUSY_DELAY = 0.25
# The replica could not take it, or not now: another attempt may go well. Every other answer is the model's word.
_AGAIN = frozenset((408, 425, 429, *range(500, 600)))
_NEVER = frozenset((501, 505))


@dataclass(frozen=True)
class Answer:
    """What a replica answered, whole. ``headers`` are those that are kept with the result."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


@dataclass(frozen=True)
class Broken:
    """No whole answer came: why. ``sent``: the replica may have seen the request."""

    reason: str
    sent: bool


@dataclass(frozen=True)
class Retry:
    """Another attempt after ``delay`` seconds. ``free``: this one does not count, since nobody tried."""

    delay: float
    free: bool = False


@dataclass(frozen=True)
class Result:
    """The end of a task."""

    status: int
    headers: Sequence[tuple[str, str]]
    body: bytes


def follows(found: Answer | Broken, attempt: int, attempts: int) -> Retry | Result:
    """After ``attempt`` (from 1) of at most ``attempts``.

    A request that never left is tried again without counting: a replica was about to go, or had just gone. Errors of
    the server side are tried again with back-off, and the last of them is the result.
    """
    if isinstance(found, Broken):
        if not found.sent:
            return Retry(_BUSY_DELAY, free=True)
        if attempt < attempts:
            return Retry(delay(attempt))
        return failed(502, "upstream-failed", f"The replica failed in each of {attempts} attempts: {found.reason}.")
    if found.status in _AGAIN and found.status not in _NEVER and attempt < attempts:
        return Retry(delay(attempt))
    return Result(found.status, found.headers, found.body)


def exhausted(attempts: int) -> Result:
    """Of a task that was taken up ``attempts`` times, and whose last lease ended without a word."""
    return failed(504, "timed-out", f"Nothing was heard of the task after {attempts} attempts: each lease ended.")


def cancelled() -> Result:
    return failed(410, "cancelled", "The task was cancelled before it began.")


def failed(status: int, code: str, detail: str) -> Result:
    """A result that says why there is none, as problem JSON."""
    return Result(status, (("content-type", "application/problem+json"),), Problem(status, code, detail).body())


def delay(attempt: int) -> float:
    """Seconds between attempt number ``attempt`` and the next one: 0.5, 1, 2 … 60."""
    return float(min(_FIRST_DELAY * 2.0 ** min(attempt - 1, 20), _LONGEST_DELAY))


def kept_headers(headers: Sequence[tuple[str, str]]) -> str:
    """As the table holds them."""
    return json.dumps([list(pair) for pair in headers])
