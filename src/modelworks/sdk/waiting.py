"""Waiting for a resource: woken by its changes, and through a restart of the platform."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import httpx

from modelworks.kernel.errors import NotFound, TimedOut, Unavailable
from modelworks.sdk.client import Client, Document

JOB_ENDED = ("Succeeded", "Failed", "Cancelled")
SERVICE_SETTLED = ("Running", "Idle", "Failed", "Stopped")
_SLICE = 20.0


def status_of(document: Document) -> dict[str, Any]:
    """The status, empty while it still speaks of an older generation than the spec."""
    status = document.get("status") or {}
    if status.get("observed_generation", 0) < document["metadata"].get("generation", 0):
        return {}
    return dict(status)


def phase_of(document: Document) -> str:
    return str(status_of(document).get("phase", ""))


def until(
    client: Client,
    kind: str,
    name: str,
    done: Callable[[Document], bool],
    *,
    on_change: Callable[[Document], None] | None = None,
    timeout: float | None = None,
) -> Document:
    """The resource once ``done`` says so. Raises NotFound when it goes away, TimedOut after ``timeout`` seconds."""
    end = None if timeout is None else time.monotonic() + timeout
    seen: Document | None = None
    while True:
        document = client.get(kind, name)  # waits for a controller that is restarted, and gives up when it stays away
        if _tell(document, seen, on_change) and done(document):
            return document
        seen = document
        left = _SLICE if end is None else min(_SLICE, end - time.monotonic())
        if left <= 0:
            message = (document.get("status") or {}).get("message") or "no status yet"
            raise TimedOut(f"{kind} {name} is not there after {timeout:g} s: {message}")
        try:
            for event, changed in client.watch(kind, name, timeout=left):
                if event == "deleted":
                    raise NotFound(f"{kind} {name} was deleted")
                if _tell(changed, seen, on_change) and done(changed):
                    return changed
                seen = changed
        except (httpx.TransportError, Unavailable):
            time.sleep(0.2)  # cut off: the controller is being restarted


def _tell(document: Document, seen: Document | None, on_change: Callable[[Document], None] | None) -> bool:
    """Tell about a changed document; False when it was looked at before."""
    if seen is not None and document == seen:
        return False
    if on_change is not None:
        on_change(document)
    return True
