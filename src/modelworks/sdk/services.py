"""Waiting for a service, and saying why it does not come."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

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
    """The service once all its wanted replicas are ready, or it has failed or is stopped."""
    service = until(client, KIND, name, lambda s: phase_of(s) in phases, on_change=on_change, timeout=timeout)
    if phase_of(service) == "Running":
        _await_route(client, name)
    return service


def _await_route(client: Client, name: str) -> None:
    """The gateway hears of ready replicas a moment after the status says so. Raises TimedOut."""
    end = time.monotonic() + _ROUTE
    while not client.service_routed(name):
        if time.monotonic() > end:
            raise TimedOut(f"service {name} runs, but the gateway does not pass requests on to it", remedy="mw status")
        time.sleep(0.02)


def check_ready(service: Document) -> Document:
    """The service when it runs. Raises WorkloadFailed with its message and last lines."""
    status, name = status_of(service), service["metadata"]["name"]
    if status.get("phase") == "Running":
        return service
    lines = [f"  | {line}" for line in list(status.get("last_lines") or ())[-10:]]
    message = str(status.get("message") or status.get("phase") or "not ready")
    raise WorkloadFailed("\n".join([f"service {name}: {message}", *lines]), remedy=f"mw service log {name}")
