"""A request that the table refuses: the table may be a moment old, so it is asked for once more."""

from __future__ import annotations

from collections.abc import Callable

from modelworks.gateway.client import HELD_FOR_ROUTES, Answerable, Request
from modelworks.gateway.heads import RequestHead


class Pending:
    """Takes an exchange's place until the routes have been read again, or for ``patience`` seconds. Nothing more is
    read from its client meanwhile; what came in the same read is kept."""

    __slots__ = ("_again", "_ask", "_body", "_client", "_deadline", "_over", "_patience", "head", "request_complete")

    def __init__(
        self,
        client: Answerable,
        head: RequestHead,
        ask: Callable[[Callable[[], None]], bool],
        again: Callable[[], Request],
        patience: float,
    ) -> None:
        """``ask`` calls back after the next reading, and is False when there will be none; ``again`` finds for good who
        answers."""
        self.head = head
        self.request_complete = False
        self._client = client
        self._ask = ask
        self._again = again
        self._patience = patience
        self._deadline = 0.0
        self._body: list[bytes] = []
        self._over = False

    @property
    def started(self) -> bool:
        return False

    def begin(self) -> None:
        self._deadline = self._client.now() + self._patience
        self._client.hold(HELD_FOR_ROUTES, True)
        if not self._ask(self._go_on):
            self._go_on()

    def request_body(self, data: bytes) -> None:
        self._body.append(data)

    def request_end(self) -> None:
        self.request_complete = True

    def flush(self) -> None:
        """Nothing goes anywhere."""

    def client_blocked(self, blocked: bool) -> None:
        """It has written nothing."""

    def check(self, now: float) -> None:
        if now > self._deadline:
            self._go_on()

    def abort(self) -> None:
        self._over = True

    def _go_on(self) -> None:
        if self._over:
            return
        self._over = True
        successor = self._again()
        self._client.hold(HELD_FOR_ROUTES, False)
        self._client.replace(self, successor)
        for data in self._body:
            successor.request_body(data)
        if self.request_complete:
            successor.request_end()
        successor.flush()
