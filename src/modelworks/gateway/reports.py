"""What the gateway tells of its services' traffic: docs/architecture.md, "Traffic reports"."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

from modelworks.gateway.beside import elsewhere
from modelworks.gateway.service import Service

_EVERY = 1.0
_PAUSE = 0.05  # between two reports of the same service that are sent out of turn
_MOST_UNREAD = 1024 * 1024


class Reports:
    """Followers get a line with every service, and then lines with those that changed, each second and at an alert.

    Nothing is done while nobody follows.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, services: Callable[[], Iterable[Service]]) -> None:
        self.source = f"gateway-{os.getpid()}-{time.time_ns() // 1_000_000}"
        self._loop = loop
        self._services = services
        self._told: dict[asyncio.WriteTransport, dict[str, dict[str, Any]]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._alerts: dict[str, float] = {}
        self._urgent: set[Service] = set()

    def follow(self, transport: asyncio.WriteTransport) -> None:
        """Tell ``transport`` everything now, and what changes until it goes."""
        self._told[transport] = {}
        self._tell(self._services(), [transport], whole=True)
        if self._timer is None:
            self._timer = self._loop.call_later(_EVERY, self._each_second)

    def leave(self, transport: asyncio.WriteTransport) -> None:
        self._told.pop(transport, None)

    def alert(self, service: Service) -> None:
        """Something about ``service`` cannot wait: somebody without a replica, or a replica that says nothing."""
        if not self._told:
            return
        if not self._urgent:
            # After what is happening now, so that it is in the report; and not for each of a burst.
            last = self._alerts.get(service.route.uid, 0.0)
            self._loop.call_at(max(self._loop.time(), last + _PAUSE), self._tell_urgent)
        self._urgent.add(service)

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for transport in list(self._told):
            transport.close()
        self._told.clear()

    def _each_second(self) -> None:
        self._timer = None
        self._alerts.clear()  # only those of the last moment matter
        if not self._told:
            return
        self._timer = self._loop.call_later(_EVERY, self._each_second)
        self._tell(self._services(), list(self._told), whole=True)

    def _tell_urgent(self) -> None:
        urgent, self._urgent = self._urgent, set()
        now = self._loop.time()
        self._alerts.update({service.route.uid: now for service in urgent})
        gone = urgent.difference(self._services())
        self._tell(urgent - gone, list(self._told))

    def _tell(self, services: Iterable[Service], to: Iterable[asyncio.WriteTransport], *, whole: bool = False) -> None:
        """``whole``: these are all services there are, and others that were told of are gone."""
        now = self._loop.time()
        documents = {service.route.uid: document(service, now) for service in services if not service.route.tasks}
        at = round(time.time(), 3)
        for transport in to:
            if transport.is_closing() or transport.get_write_buffer_size() > _MOST_UNREAD:
                self.leave(transport)
                transport.close()
                continue
            told = self._told[transport]
            changed = {uid: found for uid, found in documents.items() if told.get(uid) != found}
            told.update(changed)
            report: dict[str, Any] = {"source": self.source, "at": at, "services": changed}
            if whole and (gone := told.keys() - documents.keys()):
                report["gone"] = sorted(gone)
                for uid in gone:
                    del told[uid]
            transport.write(json.dumps(report, separators=(",", ":")).encode() + b"\n")


def document(service: Service, now: float) -> dict[str, Any]:
    """One service of a report."""
    metrics, in_flight, others = service.metrics, service.in_flight(), elsewhere(service)
    return {
        "in_flight": service.admission.in_flight
        - sum(others.values()),  # what replicas are wanted for: not a mirror's copies
        "queued": service.admission.queued,
        "oldest": round(service.admission.oldest(now), 3),
        "arrived": metrics.arrived,
        "rejected": dict(metrics.rejections),
        "hung": sorted(service.hung),
        "revisions": {
            name: {
                "answered": counts.total,
                "errors": counts.errors,
                "seconds": round(counts.latency.seconds, 6),
                "buckets": list(counts.latency.buckets),
                "in_flight": in_flight.get(name, 0) - others.get(name, 0),
            }
            for name, counts in metrics.revisions.items()
        },
    }
