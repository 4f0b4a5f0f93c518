"""When requests are sent: at a constant rate, in steps, doubling until told to stop, or as they were recorded. Pure."""

from __future__ import annotations

import base64
import binascii
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Literal

from modelworks.kernel.errors import Invalid

Arrivals = Literal["constant", "poisson"]
FASTEST = 50_000.0  # requests a second
LARGEST_STEP_COUNT = 200
_ENDPOINT = re.compile(r"^/api/predict/[^/?]+/?")


@dataclass(frozen=True)
class Step:
    """A while at one rate: ``rate`` requests a second for ``duration`` seconds."""

    rate: float
    duration: float


@dataclass(frozen=True)
class Recorded:
    """A request of a recording, ``at`` seconds after its first."""

    at: float
    body: bytes | None
    path: str = ""
    method: str = "POST"
    content_type: str = ""
    unfit: str = ""  # why a captured request is not to be sent again


def constant(rate: float, duration: float) -> list[Step]:
    """Raises Invalid for a rate that is none."""
    return [Step(_checked(rate), duration)]


def steps(text: str, duration: float) -> list[Step]:
    """``A:B:S``: from A to B requests a second, S more each time. Raises Invalid."""
    parts = text.split(":")
    try:
        first, last, more = (float(part) for part in parts)
    except ValueError:
        raise Invalid(f"not steps: {text!r}; write from:to:more, such as 10:100:10") from None
    _checked(first), _checked(last)
    if more <= 0 or last < first:
        raise Invalid(f"steps go up: {text!r} does not")
    count = int((last - first) / more + 1e-9) + 1
    if count > LARGEST_STEP_COUNT:
        raise Invalid(f"{text} makes {count} steps, more than {LARGEST_STEP_COUNT}")
    return [Step(first + number * more, duration) for number in range(count)]


def doubling(first: float, duration: float) -> list[Step]:
    """From ``first`` twice as many each time, up to what the generator can send."""
    found, rate = [], first
    while rate <= FASTEST / 2:
        found.append(Step(rate, duration))
        rate *= 2
    return found


def arrivals(step: Step, kind: Arrivals, seed: int = 0) -> Iterator[float]:
    """Seconds from the step's begin, ascending and below its duration."""
    if kind == "constant":
        for number in range(int(step.rate * step.duration + 1e-9)):
            yield number / step.rate
        return
    chance, at = random.Random(seed), 0.0
    while True:
        at += chance.expovariate(step.rate)
        if at >= step.duration:
            return
        yield at


def recording(lines: Sequence[str], speed: float = 1.0) -> list[Recorded]:
    """Requests of JSON lines ``{at, body | body_base64, path, method, content_type}``, or as a gateway captured them.
    Raises Invalid with the line.

    ``at`` is in seconds, or an ISO timestamp. The requests are put in order; ``speed`` 2 sends them twice as fast.
    """
    found: list[Recorded] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line)
            found.append(_captured(entry) if isinstance(entry.get("request"), dict) else _written(entry))
        except (ValueError, TypeError, KeyError, AttributeError, binascii.Error) as error:
            said = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise Invalid(f"line {number} of the recording is not a request: {said}") from None
    if not found:
        raise Invalid("the recording holds no request")
    found.sort(key=lambda one: one.at)
    first = found[0].at
    return [replace(one, at=(one.at - first) / speed) for one in found]


def _written(entry: dict[str, Any]) -> Recorded:
    return Recorded(
        at=_time(entry["at"]),
        body=_body(entry),
        path=str(entry.get("path") or ""),
        method=str(entry.get("method") or "POST").upper(),
        content_type=str(entry.get("content_type") or ""),
    )


def _captured(entry: dict[str, Any]) -> Recorded:
    """A line of a gateway: its path is the whole one, of the service that it was captured from."""
    request, status = entry["request"], int(entry.get("status") or 0)
    unfit = "cut before their bodies ended" if request.get("truncated") else ""
    # A refusal says nothing about load, but that of a queue that was full does.
    if not unfit and 400 <= status < 500 and status != 429:
        unfit = "refused by the service when they were captured"
    text = str(request.get("body") or "")
    body = base64.b64decode(text, validate=True) if request.get("encoding") == "base64" else text.encode()
    return Recorded(
        at=_time(entry["at"]),
        body=body or None,
        path=_ENDPOINT.sub("", str(entry.get("path") or "")),
        method=str(entry.get("method") or "POST").upper(),
        content_type=str(request.get("type") or ""),
        unfit=unfit,
    )


def _time(value: Any) -> float:
    if isinstance(value, str):
        return datetime.fromisoformat(value.replace("Z", "+00:00")).timestamp()
    return float(value)


def _body(entry: dict[str, Any]) -> bytes | None:
    if entry.get("body_base64") is not None:
        return base64.b64decode(entry["body_base64"], validate=True)
    body = entry.get("body")
    if body is None:
        return None
    return body.encode() if isinstance(body, str) else json.dumps(body).encode()


def _checked(rate: float) -> float:
    if not 0 < rate <= FASTEST:
        raise Invalid(f"a rate is above 0 and at most {FASTEST:g} requests a second, not {rate:g}")
    return rate
