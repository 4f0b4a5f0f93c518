"""An asynchronous service as its route describes it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

from modelworks.gateway.table import BadRoute, Route


@dataclass(frozen=True)
class Terms:
    """How tasks are kept: times in seconds, as ``spec.tasks`` of the service has them."""

    result_ttl: float = 86_400.0
    lease: float = 60.0
    attempts: int = 5
    max_pending: int = 100_000
    webhook: str | None = None

    @classmethod
    def parse(cls, document: Any) -> Self:
        """The ``tasks`` of a route; ``true`` is all defaults. Raises BadRoute."""
        if document is True:
            return cls()
        try:
            return cls(
                result_ttl=float(document["result_ttl"]),
                lease=float(document["lease"]),
                attempts=int(document["attempts"]),
                max_pending=int(document["max_pending"]),
                webhook=document.get("webhook"),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadRoute(f"tasks: {type(error).__name__}: {error}") from error


@dataclass(frozen=True)
class Service:
    """``route`` says where its replicas are, ``terms`` how its tasks are kept."""

    route: Route
    terms: Terms

    @property
    def uid(self) -> str:
        return self.route.uid


def parse(documents: Iterable[Mapping[str, Any]]) -> tuple[dict[str, Service], list[str]]:
    """The asynchronous services of the routes by uid; and what is wrong with those that are left out."""
    found: dict[str, Service] = {}
    bad: list[str] = []
    for document in documents:
        if not document.get("tasks"):
            continue
        try:
            service = Service(Route.parse(document), Terms.parse(document["tasks"]))
        except BadRoute as error:
            bad.append(f"{document.get('service')!r}: {error}")
        else:
            found[service.uid] = service
    return found, bad
