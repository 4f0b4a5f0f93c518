"""Calling a service."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import httpx

from modelworks.kernel.errors import (
    ModelworksError,
    NotFound,
    PlatformUnreachable,
    TimedOut,
    Unauthorized,
    from_problem,
)
from modelworks.sdk.client import Document
from modelworks.sdk.serializers import JsonSerializer, Serializer
from modelworks.sdk.services import KIND, check_ready, rollback, wait_ready
from modelworks.sdk.session import Session, get_default_session
from modelworks.sdk.waiting import until


@dataclass(frozen=True)
class RawResponse:
    """An answer as it came."""

    status_code: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> Any:
        return JsonSerializer().deserialize(self.content, "application/json")


class Predictor:
    """A service by name. ``endpoint_type`` is accepted: there is one endpoint."""

    def __init__(
        self,
        service_name: str,
        endpoint_type: str = "INTERNET",
        serializer: Serializer | None = None,
        session: Session | None = None,
    ) -> None:
        self.service_name = service_name
        self.session = session or get_default_session()
        self.serializer: Serializer = serializer or JsonSerializer()
        self._token: str | None = None
        self._http = httpx.Client(trust_env=False, timeout=httpx.Timeout(600.0, connect=5.0))

    def __repr__(self) -> str:
        return f"Predictor(service_name={self.service_name!r})"

    @property
    def endpoint(self) -> str:
        return self.session.client.service_endpoint(self.service_name)

    @property
    def access_token(self) -> str:
        """The service's token, asked for once; again after the gateway refused it."""
        if self._token is None:
            self._token = self.session.client.service_token(self.service_name)
        return self._token

    def describe(self) -> Document:
        """The service's document."""
        return self.session.client.get(KIND, self.service_name)

    def predict(self, data: Any) -> Any:
        """Send ``data`` and return the answer, both through the serializer. Raises the error of a refusal."""
        headers = {"Content-Type": self.serializer.content_type}
        try:
            answer = self._checked(self.serializer.serialize(data), headers)
        except Unauthorized:
            if self._token is None:
                raise
            self._token = None  # rotated since
            answer = self._checked(self.serializer.serialize(data), headers)
        return self.serializer.deserialize(answer.content, answer.headers.get("content-type", ""))

    def raw_predict(
        self,
        data: Any = None,
        path: str | None = None,
        headers: dict[str, str] | None = None,
        method: str = "POST",
        timeout: float | None = None,
    ) -> RawResponse:
        """Send bytes (or what JSON can hold) to ``path`` below the endpoint; whatever status comes back is returned.

        Raises PlatformUnreachable when the gateway does not answer, TimedOut after ``timeout`` seconds.
        """
        content = None if data is None else data if isinstance(data, bytes) else JsonSerializer().serialize(data)
        url = self.endpoint + (f"/{path.lstrip('/')}" if path else "")
        sent = {"Authorization": f"Bearer {self.access_token}", **(headers or {})}
        if content is not None and not any(name.lower() == "content-type" for name in sent):
            sent["Content-Type"] = "application/octet-stream" if isinstance(data, bytes) else "application/json"
        limit = httpx.USE_CLIENT_DEFAULT if timeout is None else httpx.Timeout(timeout)
        try:
            response = self._http.request(method, url, content=content, headers=sent, timeout=limit)
        except httpx.TimeoutException as error:
            raise TimedOut(f"service {self.service_name} did not answer in time") from error
        except httpx.TransportError as error:
            raise PlatformUnreachable(f"no gateway answers at {self.endpoint}: {error}", remedy="mw status") from error
        return RawResponse(response.status_code, dict(response.headers), response.content)

    def openai(self, url_suffix: str = "v1", **options: Any) -> Any:
        """An ``openai.OpenAI`` client of this service (``pip install openai``)."""
        try:
            from openai import OpenAI  # noqa: PLC0415 - optional, and slow to import
        except ImportError as error:
            raise NotFound("the package openai is not installed", remedy="pip install openai") from error
        base = f"{self.endpoint}/{url_suffix.strip('/')}"
        return OpenAI(base_url=base, api_key=self.access_token, **options)

    def wait_for_ready(self, timeout: float | None = None) -> None:
        check_ready(wait_ready(self.session.client, self.service_name, timeout=timeout))

    def start_service(self, wait: bool = True) -> None:
        self.session.client.start_service(self.service_name)
        if wait:
            self.wait_for_ready()

    def stop_service(self, wait: bool = True) -> None:
        self.session.client.stop_service(self.service_name)
        if wait:
            wait_ready(self.session.client, self.service_name, phases=("Stopped",))

    def switch_version(self, version: str | int | None = None, wait: bool = True) -> None:
        """Go to the revision with that number (``mw service revisions``); None: to the one before."""
        rollback(self.session.client, self.service_name, version)
        if wait:
            self.wait_for_ready()

    def delete_service(self, wait: bool = True) -> None:
        self.session.client.delete(KIND, self.service_name)
        if wait:
            with contextlib.suppress(NotFound):  # what is waited for
                until(self.session.client, KIND, self.service_name, lambda _: False)

    def _checked(self, content: bytes, headers: dict[str, str]) -> RawResponse:
        answer = self.raw_predict(content, headers=headers)
        if answer.status_code >= 400:
            raise _problem(answer)
        return answer


def _problem(answer: RawResponse) -> ModelworksError:
    body: Any = None
    with contextlib.suppress(ValueError):  # a replica of the user's own need not speak problem JSON
        body = answer.json()
    if not isinstance(body, dict) or not ("detail" in body or "title" in body):
        body = {"detail": f"the service answered {answer.status_code}: {answer.content[:500].decode(errors='replace')}"}
    return from_problem(body, answer.status_code)
