"""Answers that the gateway gives by itself: refusals and its health."""

from __future__ import annotations

from modelworks.gateway.client import Answerable
from modelworks.gateway.heads import RequestHead
from modelworks.gateway.problems import Problem

_HEALTH = b"HTTP/1.1 200 OK\r\nServer: modelworks\r\nContent-Type: application/json\r\nContent-Length: 15\r\n"
_HEALTH_BODY = b'{"status":"ok"}'


class Direct:
    """Takes an exchange's place on the client's connection: answers at once, and drops the rest of the request.

    ``head`` is None when there was no valid one. ``discard`` is how large a body may be that is read only to keep the
    connection.
    """

    __slots__ = ("_answered", "_client", "_discard", "_keep", "_problem", "head", "request_complete")

    def __init__(self, client: Answerable, head: RequestHead | None, problem: Problem | None, discard: int) -> None:
        self.head = head
        self.request_complete = False
        self._client = client
        self._problem = problem
        self._discard = discard
        self._keep = False
        self._answered = False

    @property
    def started(self) -> bool:
        return self._answered

    def begin(self) -> None:
        head, problem = self.head, self._problem
        self._keep = head is not None and head.keep_alive and not self._client.draining
        if problem is not None and problem.close:
            self._keep = False
        if self._keep and head is not None and not self.request_complete and head.has_body:
            # One that waits for `100 Continue` may or may not send its body: nothing after it could be understood.
            self._keep = head.length is not None and head.length <= self._discard and not head.expects
        head_only = head is not None and head.method == b"HEAD"
        if problem is not None:
            self._client.write(problem.response(keep_alive=self._keep, head_only=head_only))
        else:
            end = b"\r\n" if self._keep else b"Connection: close\r\n\r\n"
            self._client.write(_HEALTH + end + (b"" if head_only else _HEALTH_BODY))
        self._answered = True
        if self.request_complete or not self._keep:
            self._client.done(self._keep)

    def request_body(self, data: bytes) -> None:
        """Dropped."""

    def request_end(self) -> None:
        self.request_complete = True
        if self._answered and self._keep:
            self._client.done(True)

    def flush(self) -> None:
        """Nothing goes anywhere."""

    def client_blocked(self, blocked: bool) -> None:
        """Its answer is small and already written."""

    def check(self, now: float) -> None:
        """It waits for nothing but the client."""

    def abort(self) -> None:
        """It holds nothing."""
