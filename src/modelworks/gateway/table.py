"""What the gateway knows of the services: the documents of ``routes``, checked and frozen."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

STATES = ("ready", "starting", "idle", "failed", "stopped")


class BadRoute(ValueError):
    """A route document that cannot be served; the others are."""


@dataclass(frozen=True, slots=True)
class Replica:
    """One server of a service: ``address`` is ``unix:/path`` or ``tcp:host:port``; with ``run``, its key, that is a
    relay which wants the run's secret.

    ``limit`` is its own concurrency when that is lower than the service's; one that is ``slow`` is fed slowly at first.
    """

    id: str
    address: str
    revision: str
    limit: int | None = None
    slow: bool = False
    run: str = ""


@dataclass(frozen=True, slots=True)
class Mirror:
    """``percent`` of the requests are sent to ``revision`` too, whose answers are dropped."""

    revision: str
    percent: int


@dataclass(frozen=True, slots=True)
class Sampling:
    """``percent`` of the requests are kept in the folder ``uri``, bodies up to ``max_body`` bytes."""

    uri: str
    percent: float
    max_body: int


@dataclass(frozen=True, slots=True)
class Route:
    """One service. Times in seconds, ``max_body`` in bytes; ``concurrency`` is each replica's.

    ``weights`` are percent by revision; a service without them has one revision, or takes them alike. ``sealed`` are
    its tokens encrypted with the master key. ``tasks``: an asynchronous service, whose requests the courier answers.
    ``hold`` is how long a request may wait for the first replica of a service that has none. ``queue_grows``: more than
    ``queue_size`` may wait where the replicas are fast enough.
    """

    service: str
    uid: str
    state: str
    message: str
    tokens: tuple[bytes, ...]  # SHA-256 digests
    replicas: tuple[Replica, ...]
    concurrency: int = 16
    queue_size: int = 64
    queue_timeout: float = 30.0
    keepalive: float = 600.0
    max_body: int = 100 * 1024 * 1024
    hold: float = 120.0
    weights: Mapping[str, int] = field(default_factory=dict)
    sticky_header: bytes = b""
    mirror: Mirror | None = None
    hang_timeout: float | None = None
    rate_limit: float | None = None
    concurrency_limit: int | None = None
    tasks: bool = False
    capture: Sampling | None = None
    sealed: tuple[bytes, ...] = ()
    queue_grows: bool = False

    @classmethod
    def parse(cls, document: Mapping[str, Any]) -> Route:
        """Read a document of docs/architecture.md, "Routes". Raises BadRoute."""
        try:
            route = cls(
                service=str(document["service"]),
                uid=str(document["uid"]),
                state=str(document["state"]),
                message=str(document.get("message") or ""),
                tokens=tuple(bytes.fromhex(t) for t in document["token_sha256"]),
                replicas=tuple(_replica(r) for r in document["replicas"]),
                concurrency=int(document.get("concurrency", 16)),
                queue_size=int(document.get("queue_size", 64)),
                queue_timeout=float(document.get("queue_timeout", 30.0)),
                keepalive=float(document.get("keepalive", 600.0)),
                max_body=int(document.get("max_body", 100 * 1024 * 1024)),
                hold=float(document.get("hold", 120.0)),
                weights={str(name): int(share) for name, share in (document.get("weights") or {}).items()},
                sticky_header=str(document.get("sticky_header") or "").lower().encode(),
                mirror=_optional(document.get("mirror"), lambda m: Mirror(str(m["revision"]), int(m["percent"]))),
                hang_timeout=_optional(document.get("hang_timeout"), float),
                rate_limit=_optional(document.get("rate_limit"), float),
                concurrency_limit=_optional(document.get("concurrency_limit"), int),
                tasks=bool(document.get("tasks")),
                capture=_optional(
                    document.get("capture"),
                    lambda c: Sampling(str(c["uri"]), float(c["percent"]), int(c["max_body"])),
                ),
                queue_grows=bool(document.get("queue_grows")),
                sealed=tuple(base64.b64decode(token) for token in document.get("token_sealed") or ()),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadRoute(f"{type(error).__name__}: {error}") from error
        route._check()
        return route

    def _check(self) -> None:
        if not self.service or any(c in self.service for c in "/?# \r\n"):
            raise BadRoute(f"service name {self.service!r}")
        if self.state not in STATES:
            raise BadRoute(f"state {self.state!r}")
        if self.concurrency < 1 or self.queue_size < 0 or self.queue_timeout < 0 or self.keepalive <= 0:
            raise BadRoute("a limit is out of range")
        if any(share < 0 for share in self.weights.values()) or sum(self.weights.values()) > 100:
            raise BadRoute("the weights are not percent")
        if any(len(t) != 32 for t in self.tokens):
            raise BadRoute("token_sha256 is not a SHA-256")
        for replica in self.replicas:
            parse_address(replica.address)
            if not f"{replica.id}{replica.revision}".isprintable():
                raise BadRoute(f"replica {replica.id!r}")


def _replica(document: Mapping[str, Any]) -> Replica:
    limit = _optional(document.get("limit"), int)
    revision = str(document.get("revision") or "")
    return Replica(
        id=str(document["id"]),
        address=str(document["address"]),
        revision=revision,
        limit=limit,
        slow=bool(document.get("slow")),
        run=str(document.get("run") or ""),
    )


def _optional(value: Any, read: Callable[[Any], T]) -> T | None:
    return None if value is None else read(value)


def parse_address(address: str) -> str | tuple[str, int]:
    """``unix:/path`` → the path; ``tcp:host:port`` → (host, port). Raises BadRoute."""
    scheme, _, rest = address.partition(":")
    if scheme == "unix" and rest.startswith("/"):
        return rest
    host, _, port = rest.rpartition(":")
    if scheme == "tcp" and host and port.isdecimal() and 0 < int(port) < 65536:
        return host.strip("[]"), int(port)
    raise BadRoute(f"address {address!r}")


@dataclass(frozen=True, slots=True)
class Table:
    """All routes by service name; replaced as a whole. ``bad`` names what was left out, with the reason."""

    routes: Mapping[str, Route]
    bad: tuple[str, ...] = ()

    @classmethod
    def parse(cls, documents: Iterable[Mapping[str, Any]]) -> Table:
        return cls.of(read(document) for document in documents)

    @classmethod
    def of(cls, found: Iterable[Route | str]) -> Table:
        """Of what ``read`` answered."""
        routes: dict[str, Route] = {}
        bad: list[str] = []
        for one in found:
            if isinstance(one, str):
                bad.append(one)
            else:
                routes[one.service] = one
        return cls(routes, tuple(bad))


def read(document: Mapping[str, Any]) -> Route | str:
    """The route, or what is wrong with it."""
    try:
        return Route.parse(document)
    except BadRoute as error:
        return f"{document.get('service')!r}: {error}" if isinstance(document, Mapping) else str(error)


EMPTY = Table({})
