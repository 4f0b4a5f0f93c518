"""Calling an asynchronous service: submit now, fetch the result later."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from modelworks.kernel.errors import ModelworksError, TimedOut, Unavailable, from_problem
from modelworks.sdk.client import Document
from modelworks.sdk.predictor import Predictor, RawResponse
from modelworks.sdk.serializers import Serializer
from modelworks.sdk.session import Session

_LONGEST_POLL = 30.0  # seconds that one request waits
_PATIENCE = 30.0  # for a platform that restarts
_PAUSE = 0.2


@dataclass(frozen=True)
class Task:
    """A task that was accepted. It goes on whether anybody waits or not."""

    id: str
    predictor: AsyncPredictor

    def state(self) -> Document:
        """``{id, state, status, attempts, created_at, finished_at, expires_at}``: pending, running or done."""
        return dict(_checked(self.predictor.request("GET", f"tasks/{self.id}")).json())

    def result(self) -> RawResponse | None:
        """The result as it is, whatever its status; None while there is none. Raises NotFound when it has expired."""
        return self._result(0.0)

    def wait(self, timeout: float | None = None) -> Any:
        """The result through the serializer. Raises the error that it is, and TimedOut after ``timeout`` seconds."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = _LONGEST_POLL if end is None else end - time.monotonic()
            answer = self._result(min(max(left, 0.0), _LONGEST_POLL))
            if answer is not None:
                good = _checked(answer)
                return self.predictor.serializer.deserialize(good.content, good.headers.get("content-type", ""))
            if end is not None and time.monotonic() >= end:
                raise TimedOut(f"the task {self.id} has no result after {timeout:g} s; it goes on")

    def cancel(self) -> None:
        """A task that has not begun is not done. Raises Conflict for one that has."""
        _checked(self.predictor.request("DELETE", f"tasks/{self.id}"))

    def _result(self, wait: float) -> RawResponse | None:
        answer = self.predictor.request("GET", f"sink?requestId={self.id}&wait={wait:.3f}s", timeout=wait + 30.0)
        own = answer.headers.get("x-eas-queueservice-request-id") == self.id
        if answer.status_code == 204 and own:
            return None
        if not own:
            _checked(answer)  # a refusal, and no result
        return answer


class AsyncPredictor:
    """A service with ``tasks``, by name."""

    def __init__(self, service_name: str, serializer: Serializer | None = None, session: Session | None = None) -> None:
        self._predictor = Predictor(service_name, serializer=serializer, session=session)
        self.serializer = self._predictor.serializer

    def __repr__(self) -> str:
        return f"AsyncPredictor(service_name={self._predictor.service_name!r})"

    def predict(
        self, data: Any, *, path: str | None = None, idempotency_key: str | None = None, webhook: str | None = None
    ) -> Task:
        """Submit ``data``; returns when it is stored for good. Repeated while the platform restarts: as one task.

        Raises LimitExceeded when the service's queue is full.
        """
        headers = {
            "Content-Type": self.serializer.content_type,
            "Idempotency-Key": idempotency_key or str(uuid.uuid4()),
        }
        if webhook:
            headers["X-Mw-Webhook"] = webhook
        answer = self.request("POST", path or "", self.serializer.serialize(data), headers)
        return Task(str(_checked(answer).json()["id"]), self)

    def task(self, id: str) -> Task:
        """One that was submitted before."""
        return Task(id, self)

    def map(self, items: Iterable[Any]) -> list[Any]:
        """Submit all, then wait for all; the results in their order. Raises the error of the first bad one."""
        submitted = [self.predict(item) for item in items]
        return [task.wait() for task in submitted]

    def request(
        self,
        method: str,
        path: str,
        data: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float | None = None,
    ) -> RawResponse:
        """One request that may be repeated, and is while nothing answers."""
        end = time.monotonic() + _PATIENCE
        while True:
            try:
                answer = self._predictor.raw_predict(data, path or None, headers, method, timeout)
                if answer.status_code not in (502, 503) or time.monotonic() > end or _own(answer):
                    return answer
            except Unavailable:
                if time.monotonic() > end:
                    raise
            time.sleep(_PAUSE)


def _own(answer: RawResponse) -> bool:
    """Whether it is a task's result, and not a refusal on the way."""
    return "x-eas-queueservice-request-id" in answer.headers


def _checked(answer: RawResponse) -> RawResponse:
    if answer.status_code >= 400:
        raise _problem(answer)
    return answer


def _problem(answer: RawResponse) -> ModelworksError:
    try:
        body = json.loads(answer.content)
    except ValueError:
        body = None
    if not isinstance(body, dict) or not ("detail" in body or "title" in body):
        body = {"detail": f"the service answered {answer.status_code}: {answer.content[:500].decode(errors='replace')}"}
    return from_problem(body, answer.status_code)
