"""What one client's connection remembers of the requests that came on it."""

from __future__ import annotations

from collections.abc import Callable

from modelworks.gateway.heads import RequestHead
from modelworks.gateway.known import KnownRequest, Memory, Repeated, WholeRequest, plain_request, whole
from modelworks.gateway.unlike import Patterns


class Recall:
    """Heads that came before, and patterns of such as differ a little."""

    __slots__ = ("_key", "_length", "_memory", "_patterns")

    def __init__(self) -> None:
        self._memory: Memory[WholeRequest] = Memory()
        self._patterns = Patterns()
        self._key: bytes | None = None  # of the request that is being parsed, if it may be remembered
        self._length: int | None = None  # of its body, as its bytes say

    def find(self, data: bytes) -> Repeated | None:
        """``data`` as one whole request with a head that is known."""
        return self._patterns.find(data) or self._memory.find(data)

    def parsing(self, data: bytes | None) -> None:
        """The parser reads ``data`` now; None when that cannot be one whole request."""
        message = whole(data) if data is not None else None
        self._key, self._length = message[:2] if message is not None else (None, None)

    def learn(self, head: RequestHead, route: Callable[[RequestHead], KnownRequest | None]) -> None:
        """The parser has read this head. ``route`` says what is to be remembered of one."""
        # A length that is spelled in another way (`CONTENT-LENGTH: 0`) was seen by the parser alone.
        if (
            self._key is not None
            and head.length == self._length
            and plain_request(head)
            and (known := route(head)) is not None
        ):
            self._memory.learn(self._key, known)
            self._patterns.learn(self._key, head, route)
