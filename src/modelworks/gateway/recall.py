"""What one client's connection remembers of the requests that came on it."""

from __future__ import annotations

from collections.abc import Callable

from modelworks.gateway.heads import RequestHead
from modelworks.gateway.known import KnownRequest, Memory, Repeated, WholeRequest, plain_request, whole
from modelworks.gateway.unlike import Patterns


class Recall:
    """Heads that came before, and patterns of such as differ a little."""

    __slots__ = ("_key", "_memory", "_patterns")

    def __init__(self) -> None:
        self._memory: Memory[WholeRequest] = Memory()
        self._patterns = Patterns()
        self._key: bytes | None = None  # of the request that is being parsed, if it may be remembered

    def find(self, data: bytes) -> Repeated | None:
        """``data`` as one whole request with a head that is known."""
        return self._patterns.find(data) or self._memory.find(data)

    def parsing(self, data: bytes | None) -> None:
        """The parser reads ``data`` now; None when that cannot be one whole request."""
        message = whole(data) if data is not None else None
        self._key = message[0] if message is not None else None

    def learn(self, head: RequestHead, route: Callable[[RequestHead], KnownRequest | None]) -> None:
        """The parser has read this head. ``route`` says what is to be remembered of one."""
        if self._key is not None and plain_request(head) and (known := route(head)) is not None:
            self._memory.learn(self._key, known)
            self._patterns.learn(self._key, head, route)
