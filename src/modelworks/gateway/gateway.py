"""The gateway: the services of the table, the connections of the clients, and the way from one to the other."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from modelworks.gateway import auth
from modelworks.gateway.beside import Beside
from modelworks.gateway.capture import Capture
from modelworks.gateway.client import Request
from modelworks.gateway.common import Hub
from modelworks.gateway.direct import Direct
from modelworks.gateway.exchange import Exchange
from modelworks.gateway.heads import RequestHead
from modelworks.gateway.known import KnownRequest, Repeated
from modelworks.gateway.lanes import Waiter
from modelworks.gateway.limits import Limits
from modelworks.gateway.local import Controller, Courier, Tracking
from modelworks.gateway.metrics import render
from modelworks.gateway.pending import Pending
from modelworks.gateway.problems import NO_SUCH_PATH, NO_SUCH_SERVICE, UNAUTHORIZED, Problem
from modelworks.gateway.protocol import ClientConnection
from modelworks.gateway.reports import Reports
from modelworks.gateway.service import Service, WaitingBytes
from modelworks.gateway.signature import Permit, Signatures, SignedExchange, is_signed
from modelworks.gateway.straight import Straight
from modelworks.gateway.table import EMPTY, Route, Table
from modelworks.relay import Secrets

_PREDICT = b"/api/predict/"
_TRACKING = b"/mlflow"
_BARE = (b"/api/predict", b"/api/predict/")
_BACKLOG = 1024
_DRAINING = b"draining\n"
log = logging.getLogger("modelworks.gateway")


class Gateway:
    """Made within a running loop. ``apply`` gives it a table; ``listen`` a bound socket."""

    def __init__(
        self,
        controller: Path,
        limits: Limits | None = None,
        *,
        courier: Path | None = None,
        tracking: Path | None = None,
    ) -> None:
        """The sockets of the API, of who takes asynchronous services' requests, and of the MLflow server."""
        self.limits = limits or Limits()
        self.draining = False
        self.clients: set[ClientConnection] = set()
        self.services: dict[bytes, Service] = {}
        self.table: Table = EMPTY
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time
        self.applied_at = self.now()
        # Calls back after the next reading of the routes; False when there will be none.
        self.refresh: Callable[[Callable[[], None]], bool] = _never
        self.signatures = Signatures()
        self.secrets = Secrets()
        self.capture = Capture(None, self._loop)
        self.hub: Hub | None = None  # where several gateways have one port
        self.beside: Beside | None = None  # where this one has it alone, but for those that drain
        self._digests = auth.TokenDigests()
        self._leaving: list[Service] = []
        self._servers: list[asyncio.Server] = []
        self._standing_by: set[asyncio.WriteTransport] = set()
        self._replaced = False  # by another process, while this one drains
        self.reports = Reports(self._loop, lambda: self.services.values())
        self._waiting = WaitingBytes(self.limits.waiting)
        self._controller = Controller(controller, self._loop, self.limits)
        self._courier = Courier(courier, self._loop, self.limits) if courier is not None else None
        self._tracking = Tracking(tracking, self._loop, self.limits) if tracking is not None else None
        self._swept_at = self.now()
        self._sweeper = self._loop.call_later(self.limits.sweep, self._sweep)

    async def listen(self, listening: socket.socket) -> None:
        """Accept connections of an already bound socket, which stays open when the gateway closes."""
        own = socket.socket(fileno=socket.dup(listening.fileno()))
        self._servers.append(await self._loop.create_server(lambda: ClientConnection(self), sock=own, backlog=_BACKLOG))

    def apply(self, table: Table) -> None:
        """Serve by ``table`` from now on."""
        services: dict[bytes, Service] = {}
        dismissed: list[Waiter] = []
        for name, route in table.routes.items():
            service = self.services.pop(name.encode(), None)
            if service is not None and service.route.uid != route.uid:
                dismissed += self._remove(service)
                service = None
            if service is None:
                service = self._service(route)
            elif service.route != route:
                dismissed += service.update(route)
            services[name.encode()] = service
        for service in self.services.values():
            dismissed += self._remove(service)
        self.services, self.table, self.applied_at = services, table, self.now()
        for waiter in dismissed:
            waiter.dismissed()

    def open(self, client: ClientConnection, head: RequestHead) -> Request:
        """Find who answers a request, and refuse what may not reach them."""
        target = head.target
        name, path = _service_path(target)
        if name:
            return self._predict(client, head, name, path)
        path, _, query = target.partition(b"?")
        if path == b"/api/v1" or path.startswith(b"/api/v1/"):
            return self._exchange(client, self._controller, head, target, authorization=True)
        if self._tracking is not None and (path == _TRACKING or path.startswith(_TRACKING + b"/")):
            return self._exchange(client, self._tracking, head, target, authorization=True)
        if path in _BARE:
            name = (head.host or b"").rpartition(b":")[0] or head.host or b""
            return self._predict(client, head, name, b"/?" + query if query else b"/")
        if path == b"/healthz":
            return Direct(client, head, None, self.limits.discard)
        return Direct(client, head, NO_SUCH_PATH, self.limits.discard)

    def known(self, client: ClientConnection, head: RequestHead) -> KnownRequest | None:
        """What is to be remembered of a plain request: None when it is for no service's own path, or not allowed."""
        name, path = _service_path(head.target)
        service = self.services.get(name)
        if service is None or head.authorization is None or head.timeout is not None or service.route.tasks:
            return None
        digest = self._digests.digest(head.authorization)
        if not auth.allowed(digest, service.route.tokens):
            return None
        out = head.plain(path, b"%b%b\r\n" % (client.forwarded, head.host or b""))
        return KnownRequest(head, name, digest, out + (b"\r\n" if head.length is None else b"Content-Length: "))

    def repeat(self, client: ClientConnection, straight: Straight, known: Repeated, data: bytes) -> bool:
        """As ``open`` for a whole request with a known head, and begin it; False when it is not plainly allowed."""
        service = self.services.get(known.service)
        if (
            service is None
            or not service.ready
            or known.length > service.longest_whole
            or not auth.allowed(known.digest, service.route.tokens)
        ):
            return False
        out = known.out + data[known.body :]
        service.metrics.arrived += 1
        if client.blocked or not service.straight or not straight.start(service, known, out):
            exchange = Exchange(client, service, known.head, out, self.limits.buffer, True)
            client.begun(exchange)
            exchange.begin()
            exchange.flush()
        return True

    def metrics(self) -> str:
        """Prometheus text."""
        return render(
            [service.gauge() for service in self.services.values()],
            connections=len(self.clients),
            routes_age=self.now() - self.applied_at,
            waiting_bytes=self._waiting.bytes,
            captured=self.capture.sent,
            capture_dropped=self.capture.dropped,
        )

    def status(self) -> dict[str, object]:
        """What the control socket shows."""
        return {
            "draining": self.draining,
            "connections": len(self.clients),
            "services": {
                name.decode(): {
                    "state": s.route.state,
                    "replicas": len(s.route.replicas),
                    "in_flight": s.admission.in_flight,
                    "queued": s.admission.queued,
                    "hung": sorted(s.hung),
                }
                for name, s in self.services.items()
            },
        }

    async def drain(self, *, asked: bool = True) -> None:
        """Stop accepting; answer what has come and what still comes on open connections, with ``Connection: close``.

        It takes longer while somebody stands by, who lets another process take its place: if this one was ``asked`` to
        end. One that fails has to end before the next one is tried.
        """
        self.draining, self._replaced = True, asked
        for server in self._servers:
            server.close()
        self._show()
        for transport in list(self._standing_by):
            self.stand_by(transport)
        start, limits = self.now(), self.limits
        while self.clients and self.now() < start + (
            limits.drain_replaced if asked and self._standing_by else limits.drain
        ):
            await asyncio.sleep(0.05)
            self._show()
            if self.now() > start + limits.drain_idle:
                for client in [c for c in self.clients if c.idle]:
                    client.close()

    def stand_by(self, transport: asyncio.WriteTransport) -> None:
        """Tell ``transport`` when this one drains, for another one to take its place."""
        self._standing_by.add(transport)
        if self._replaced:
            transport.write(_DRAINING)

    def left_alone(self, transport: asyncio.WriteTransport) -> None:
        """Nobody is at its other end any more."""
        self._standing_by.discard(transport)

    async def close(self) -> None:
        """End everything now."""
        self._sweeper.cancel()
        for server in self._servers:
            server.close()
        for client in list(self.clients):
            client.abort()
        self.reports.close()
        for service in (*self.services.values(), *self._leaving, *self._local()):
            service.close()
        with contextlib.suppress(asyncio.TimeoutError):  # connections that are being cut: not worth more than a moment
            await asyncio.wait_for(self._gone(), 1.0)
        self.capture.close()
        for shared in (self.hub, self.beside):
            if shared is not None:
                shared.close()
        self.beside = None

    def look_beside(self) -> None:
        """Count what other gateways still have at replicas."""
        if self.beside is not None:
            self.beside.look((*self.services.values(), *self._leaving), self.now())

    def _show(self) -> None:
        if self.beside is not None:
            self.beside.show((*self.services.values(), *self._leaving))

    async def _gone(self) -> None:
        while self.clients:
            await asyncio.sleep(0.01)

    def _predict(
        self, client: ClientConnection, head: RequestHead, name: bytes, path: bytes, *, final: bool = False
    ) -> Request:
        """``final``: the routes have just been read; else a refusal may come from old ones, and is not given yet."""
        service = self.services.get(name)
        problem: Problem | None = NO_SUCH_SERVICE
        md5: bytes | None = None
        if service is not None:
            problem, md5 = self._permit(head, service.route)
            if problem is None and service.route.tasks and self._courier is not None:
                uid = b"X-Mw-Service-Uid: %b\r\n" % service.route.uid.encode()
                return self._exchange(client, self._courier, head, path, authorization=False, md5=md5, also=uid)
            problem = problem or service.unavailable()
        if problem is None and service is not None:
            service.metrics.arrived += 1
            return self._exchange(client, service, head, path, authorization=False, md5=md5)
        if not final and head.authorization is not None:
            again = partial(self._predict, client, head, name, path, final=True)
            return Pending(client, head, self.refresh, again, self.limits.routes_wait)
        if service is not None and problem is not None:
            service.metrics.rejected(problem.code)
        return Direct(client, head, problem, self.limits.discard)

    def _exchange(
        self,
        client: ClientConnection,
        service: Service,
        head: RequestHead,
        path: bytes,
        *,
        authorization: bool,
        md5: bytes | None = None,
        also: bytes = b"",
    ) -> Exchange | Direct:
        """``also``: more header lines of ours for who answers."""
        if head.length is not None and head.length > service.route.max_body:
            service.metrics.rejected("too-large")
            return Direct(client, head, service.too_large(), self.limits.discard)
        extra = b"%b%b\r\n%b" % (client.forwarded, head.host or b"", also)
        upstream_head = head.write(path, extra, authorization=authorization)
        if md5 is None:
            return Exchange(client, service, head, upstream_head, self.limits.buffer)
        signed = SignedExchange(client, service, head, upstream_head, self.limits.buffer)
        signed.expect(md5)
        return signed

    def _permit(self, head: RequestHead, route: Route) -> Permit:
        """Whether the request came with a token of the service, or is signed with one."""
        given = head.authorization
        if given is None:
            return Permit(UNAUTHORIZED)
        if auth.allowed(self._digests.digest(given), route.tokens):
            return Permit(None)
        return self.signatures.permit(head, route) if is_signed(given) else Permit(UNAUTHORIZED)

    def _alert(self, service: Service) -> None:
        self.reports.alert(service)
        if not service.admission.slots:
            self.refresh(_nothing)  # the table may be a moment old, and its notification lost

    def _local(self) -> list[Service]:
        return [one for one in (self._controller, self._courier, self._tracking) if one is not None]

    def _service(self, route: Route) -> Service:
        return Service(
            route,
            self._loop,
            self.limits,
            waiting=self._waiting,
            alert=self._alert,
            hub=self.hub,
            capture=self.capture,
            secrets=self.secrets,
        )

    def _remove(self, service: Service) -> list[Waiter]:
        waiting = service.remove()
        self._leaving.append(service)
        return waiting

    def _sweep(self) -> None:
        self._sweeper = self._loop.call_later(self.limits.sweep, self._sweep)
        self.look_beside()
        now = self.now()
        gap, self._swept_at = now - self._swept_at, now
        for service in (*self.services.values(), *self._leaving, *self._local()):
            service.sweep(now, gap)
        self._leaving = [service for service in self._leaving if service.busy]
        for client in list(self.clients):
            client.check(now)


def _service_path(target: bytes) -> tuple[bytes, bytes]:
    """``/api/predict/<service>/path?query`` → the service and what its replica is asked for; ("", "") for others."""
    if not target.startswith(_PREDICT):
        return b"", b""
    name, _, path = target[len(_PREDICT) :].partition(b"/")
    if b"?" in name:
        # The slash, if any, was in the query.
        name, mark, query = target[len(_PREDICT) :].partition(b"?")
        path = mark + query
    return name, b"/" + path


def _never(done: Callable[[], None]) -> bool:
    return False


def _nothing() -> None:
    """Whoever waits is let in by the table itself."""
