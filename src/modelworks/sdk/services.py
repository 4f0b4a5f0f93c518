"""Waiting for a service, and saying why it does not come."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from modelworks.kernel.errors import TimedOut, WorkloadFailed
from modelworks.sdk.client import Client, Document
from modelworks.sdk.waiting import SERVICE_SETTLED, phase_of, status_of, until

KIND = "Service"
_ROUTE = 15.0  # seconds


def wait_ready(
    client: Client,
    name: str,
    *,
    phases: Sequence[str] = SERVICE_SETTLED,
    on_change: Callable[[Document], None] | None = None,
    timeout: float | None = None,
) -> Document:
    """The service once all its wanted replicas are ready and of its latest revision, or it has failed or is stopped.

    With a canary: once that serves, too, or fails.
    """
    service = until(client, KIND, name, lambda s: _settled(s, phases), on_change=on_change, timeout=timeout)
    if phase_of(service) == "Running":
        token, revision = client.service_token(name), str(status_of(service).get("revision") or "")
        # Of an asynchronous service the courier answers, and no replica.
        later = service["spec"].get("tasks") is not None
        _await(
            lambda: client.tasks_accepted(name, token) if later else client.service_answers(name, token, revision),
            f"service {name} runs, but the gateway does not know it yet",
        )
    elif phase_of(service) == "Stopped":
        token = client.service_token(name)
        _await(
            lambda: not client.service_answers(name, token),
            f"service {name} is stopped, but the gateway still knows it",
        )
    return service


def _settled(service: Document, phases: Sequence[str]) -> bool:
    """Whether nothing more is to come by itself: an older revision that still serves is about to be replaced."""
    status = status_of(service)
    replicas, draining = status.get("replicas") or (), status.get("draining") or {}
    meant = (status.get("revision"), (status.get("canary") or {}).get("revision"))
    old = any(r["ready"] and r["revision"] not in meant and r["key"] not in draining for r in replicas)
    if status.get("canary") and status.get("phase") in ("Running", "Degraded"):
        beside = [r for r in replicas if r["revision"] == meant[1] and r["key"] not in draining]
        if any(slot.get("failures") for slot in status["canary"].get("slots") or ()):
            return "Failed" in phases
        if not any(r["ready"] for r in beside):
            return False
    if status.get("reason") == "Reversed" and "Failed" in phases:
        return True  # the new revision was taken back
    if status.get("phase") == "Degraded" and "Failed" in phases:
        return old and bool(status.get("reason"))  # the new revision fails
    return status.get("phase") in phases and not (old and status["phase"] == "Running")


def update_canary(
    client: Client,
    name: str,
    *,
    model: str | None = None,
    image: str | None = None,
    weight: int | None = None,
    mirror: int | None = None,
    replicas: int | None = None,
    **fields: Any,
) -> Document:
    """Start a canary, or change its ``weight`` (percent): 100 makes it the service's own, 0 alone ends it.

    ``fields`` are more of ``spec.canary``, such as ``env``. Raises Conflict when there is no canary to change.
    """
    given = {"model": model, "image": image, "weight": weight, "mirror": mirror, "replicas": replicas, **fields}
    return client.change_canary(name, **given)


def rollback(client: Client, name: str, to: str | int | None = None) -> Document:
    """The service as the revision before, or as ``to`` (a revision or its number). Raises NotFound, Conflict."""
    return client.roll_back_service(name, to)


def revisions(client: Client, name: str) -> list[Document]:
    """``{revision, number, created_at, what, current, canary, serves, reversed}`` of each, the newest first."""
    return client.service_revisions(name)


def rotate_token(client: Client, name: str) -> str:
    """A new token, once the gateway takes it. Raises TimedOut."""
    token = client.rotate_token(name)
    _await(lambda: client.token_accepted(name, token), f"the gateway does not take the new token of {name} yet")
    return token


def _await(condition: Callable[[], bool], failure: str) -> None:
    """The gateway hears of a change a moment after the status tells it. Raises TimedOut."""
    end = time.monotonic() + _ROUTE
    while not condition():
        if time.monotonic() > end:
            raise TimedOut(failure, remedy="mw status")
        time.sleep(0.02)


def check_ready(service: Document) -> Document:
    """The service when it runs, or is scaled to zero. Raises WorkloadFailed with its message and last lines."""
    status, name = status_of(service), service["metadata"]["name"]
    if status.get("phase") in ("Running", "Idle"):
        return service
    lines = [f"  | {line}" for line in list(status.get("last_lines") or ())[-10:]]
    message = str(status.get("message") or status.get("phase") or "not ready")
    raise WorkloadFailed("\n".join([f"service {name}: {message}", *lines]), remedy=f"mw service log {name}")
