"""Waiting for a service, and saying why it does not come."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modelworks.kernel.errors import WorkloadFailed
from modelworks.sdk.client import Client, Document
from modelworks.sdk.waiting import SERVICE_SETTLED, phase_of, status_of, until

KIND = "Service"


def wait_ready(
    client: Client,
    name: str,
    *,
    phases: Sequence[str] = SERVICE_SETTLED,
    on_change: Callable[[Document], None] | None = None,
    timeout: float | None = None,
) -> Document:
    """The service once all its wanted replicas are ready, or it has failed or is stopped."""
    return until(client, KIND, name, lambda s: phase_of(s) in phases, on_change=on_change, timeout=timeout)


def check_ready(service: Document) -> Document:
    """The service when it runs. Raises WorkloadFailed with its message and last lines."""
    status, name = status_of(service), service["metadata"]["name"]
    if status.get("phase") == "Running":
        return service
    lines = [f"  | {line}" for line in list(status.get("last_lines") or ())[-10:]]
    message = str(status.get("message") or status.get("phase") or "not ready")
    raise WorkloadFailed("\n".join([f"service {name}: {message}", *lines]), remedy=f"mw service log {name}")
