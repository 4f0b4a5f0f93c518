"""What `mw job get` and `mw service get` print for people: how it goes first, once, and what to do with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from modelworks.cli.get import message, phase
from modelworks.cli.output import age, money
from modelworks.kernel.quantities import format_duration
from modelworks.sdk.client import Document

Fact = tuple[str, str]
_LINES = 20  # of a log's end
_REPLICAS = 16


def job(document: Document) -> Iterator[str]:
    """The lines of a job; ``queue`` in it is its place."""
    status = _status(document)
    facts: list[Fact] = [*_head(document), ("queue", str((document.get("queue") or {}).get("text", "")))]
    facts += [("progress", progress(status)), ("attempt", _attempt(document, status))]
    current = [one for one in status.get("replicas") or () if one.get("attempt") == status.get("attempt")]
    facts += [("replicas", text) for text in _some(current, _job_replica)]
    facts += [("time", _times(status)), ("cost", _cost(status, document))]
    facts += [("output", str(one.get("uri", ""))) for one in status.get("outputs") or ()]
    facts += [("warning", str(text)) for text in status.get("warnings") or ()]
    attempts = status.get("attempts") or ()
    facts += [
        ("earlier", f"attempt {one['n']}: {one['reason']}, {one['message']}") for one in _before(status, attempts)
    ]
    yield from _told(document, facts, status)


def service(document: Document) -> Iterator[str]:
    """The lines of a service; ``endpoint`` in it is its address."""
    status = _status(document)
    slots = status.get("slots") or ()
    live = status.get("replicas") or ()
    facts: list[Fact] = [*_head(document), ("endpoint", str(document.get("endpoint", "")))]
    facts.append(("model", str((document.get("spec") or {}).get("model") or "")))
    facts.append(("revision", str(status.get("revision", ""))))
    if canary := status.get("canary"):
        weight = ((document.get("spec") or {}).get("canary") or {}).get("weight")
        facts.append(("canary", f"{canary['revision']}{'' if weight is None else f', {weight} % of the requests'}"))
    facts.append(("replicas", f"{status.get('ready', 0)} ready of {len(slots)}" if status else ""))
    facts += [("", text) for text in _some(live, _service_replica)]
    facts += [("restarts", text) for text in _restarts(slots)]
    facts += [("warning", str(text)) for text in status.get("warnings") or ()]
    for condition in status.get("conditions") or ():
        if condition["type"] != "Ready" and condition["status"] == "True":
            facts.append(("alert", f"{condition['type']}: {condition['message']}"))
    yield from _told(document, facts, status)


def progress(status: Mapping[str, Any]) -> str:
    """How far, how fast, and what is left; empty when nothing was reported."""
    found = status.get("progress")
    if not found:
        return ""
    parts = [f"step {found['step']}" + (f" of {found['steps']}" if found.get("steps") else "")]
    parts += [f"{_short(value)} {name}/s" for name, value in (found.get("rates") or {}).items()]
    if found.get("data_share") is not None:
        parts.append(f"{100 * found['data_share']:.0f} % of a step waits for data")
    if left := found.get("remaining"):
        parts.append(f"{format_duration(float(left['seconds']))} and {money(left['amount'])} to the end")
    return ", ".join(parts)


def _status(document: Document) -> Document:
    return dict(document.get("status") or {})


def _head(document: Document) -> Iterator[Fact]:
    yield "phase", phase(document) or "Pending"
    yield "message", message(document)
    reason = str(_status(document).get("reason") or "")
    yield "reason", "" if reason == "Completed" else reason


def _told(document: Document, facts: Iterable[Fact], status: Document) -> Iterator[str]:
    metadata = document["metadata"]
    where = "" if metadata.get("workspace") in (None, "default") else f" in workspace {metadata['workspace']}"
    yield f"{document['kind']}/{metadata['name']}{where}"
    before = ""
    for name, text in facts:
        if text:
            label = f"{name}:" if name not in ("", before) else ""
            yield f"{label:14}{text}"
            before = name or before
    last = [str(line) for line in status.get("last_lines") or ()]
    if last:
        yield f"the last lines of its log{f' ({_LINES} of {len(last)})' if len(last) > _LINES else ''}:"
        yield from (f"  | {line}" for line in last[-_LINES:])


def _some(items: Sequence[Document], tell: Callable[[Document], str]) -> Iterator[str]:
    for one in items[:_REPLICAS]:
        yield tell(one)
    if len(items) > _REPLICAS:
        yield f"and {len(items) - _REPLICAS} more"


def _job_replica(one: Document) -> str:
    why = f" ({one['reason']})" if one.get("reason") else ""
    code = f", exit code {one['exit_code']}" if one.get("exit_code") else ""
    return f"{one['ordinal']} {one['phase']}{why} on node {one['node']}{code}"


def _service_replica(one: Document) -> str:
    again = f", begun {one['incarnation'] + 1} times" if one.get("incarnation") else ""
    return f"{one['ordinal']} {one['phase']}{', ready' if one.get('ready') else ''} on node {one['node']}{again}"


def _restarts(slots: Iterable[Document]) -> Iterator[str]:
    for slot in slots:
        if slot.get("cause"):
            yield f"replica {slot['ordinal']} ended before: {slot['cause']}"


def _attempt(document: Document, status: Document) -> str:
    number = status.get("attempt")
    retries = (document.get("spec") or {}).get("retries")
    if not number or (number == 1 and not retries):
        return ""
    return f"{number}" + (f", of a job with {retries} retries" if retries else "")


def _before(status: Document, attempts: Sequence[Document]) -> Sequence[Document]:
    """Attempts that another one followed; the last of a job that has ended is told by its message."""
    return [one for one in attempts if one.get("n") != status.get("attempt") and one.get("message")]


def _times(status: Document) -> str:
    begun, ended = status.get("started_at"), status.get("finished_at")
    if not begun:
        return ""
    if not ended:
        return f"began {age(begun)} ago"
    took = (datetime.fromisoformat(ended) - datetime.fromisoformat(begun)).total_seconds()
    return f"took {format_duration(float(round(max(took, 0.0))))}, ended {age(ended)} ago"


def _cost(status: Document, document: Document) -> str:
    found = status.get("cost")
    if not found:
        return ""
    budget = (document.get("spec") or {}).get("budget")
    hourly = f", {money(found['per_hour'])} an hour" if found.get("per_hour") else ""
    return f"{money(found['amount'])}{f' of {money(budget)}' if budget is not None else ''}{hourly}"


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
