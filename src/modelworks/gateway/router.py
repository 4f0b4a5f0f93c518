"""What a client's connection needs of the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from modelworks.gateway.client import Request
from modelworks.gateway.heads import RequestHead
from modelworks.gateway.known import KnownRequest, Repeated
from modelworks.gateway.limits import Limits
from modelworks.gateway.straight import Straight

if TYPE_CHECKING:
    from modelworks.gateway.protocol import ClientConnection


class Router(Protocol):
    """Finds who answers a request."""

    limits: Limits
    draining: bool
    clients: set[ClientConnection]

    def now(self) -> float: ...
    def open(self, client: ClientConnection, head: RequestHead) -> Request: ...
    def known(self, client: ClientConnection, head: RequestHead) -> KnownRequest | None: ...
    def repeat(self, client: ClientConnection, straight: Straight, known: Repeated, data: bytes) -> bool: ...
