"""One HTTP connection to the platform's API: problems become errors, restarts of the controller are waited out."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx

from modelworks.kernel.errors import ModelworksError, PlatformUnreachable, Unavailable, from_problem

_BACK_OFF = (0.1, 0.2, 0.4, 0.8, 1.6, 2.0)
# Somebody who types `mw get` while nothing is up wants to hear so at once; a restarting controller answers 503 through
# the gateway, and that is worth waiting for.
_REFUSED_PATIENCE = 0.5
UP_HINT = "start it with `mw up --detach`, or name another with `mw login URL --key KEY`"


class Http:
    """``url`` is the gateway's (``http://127.0.0.1:8700``). ``transport`` replaces the network in tests.

    Requests that may be repeated are, for up to ``patience`` seconds. Raises the :class:`ModelworksError` that the
    platform's problem names, PlatformUnreachable when nothing answers.
    """

    def __init__(
        self,
        url: str,
        api_key: str | None,
        *,
        transport: httpx.BaseTransport | None = None,
        patience: float = 15.0,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url.rstrip("/")
        self.patience = patience
        self._sleep, self._clock = sleep, clock
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        # Proxy variables are for the outside world; the platform is addressed directly.
        self._client = httpx.Client(
            base_url=f"{self.url}/api/v1",
            headers=headers,
            timeout=httpx.Timeout(30.0, connect=5.0),
            # Certificates are loaded only where they are looked at: that takes 40 ms, of every command.
            transport=transport or httpx.HTTPTransport(verify=self.url.startswith("https://")),
            trust_env=False,
        )

    def close(self) -> None:
        self._client.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        body: Any = None,
        repeat: bool | None = None,
        timeout: float = 60.0,
    ) -> Any:
        """The JSON answer (None when empty). ``repeat``: the call may be made twice; GET, PUT and DELETE always may."""
        may_repeat = method in ("GET", "PUT", "DELETE") if repeat is None else repeat

        def once() -> Any:
            response = self._client.request(method, path, params=_present(params), json=body, timeout=timeout)
            _raise_for_problem(response)
            return _json(response) if response.content else None

        return self._patiently(once, may_repeat)

    def knock(self, url: str, token: str) -> httpx.Response:
        """The answer to a HEAD of any address, with a service's token for the key. Raises PlatformUnreachable."""
        try:
            return self._client.head(url, headers={"Authorization": f"Bearer {token}"})
        except httpx.TransportError as error:
            raise self._unreachable(error) from error

    @contextlib.contextmanager
    def stream(self, path: str, params: dict[str, Any] | None = None) -> Iterator[httpx.Response]:
        """An answer read as it comes. Raises httpx.TransportError when it is cut; who follows it then asks again."""
        timeout = httpx.Timeout(90.0, connect=5.0)
        with self._client.stream("GET", path, params=_present(params), timeout=timeout) as response:
            if response.is_error:
                response.read()
            _raise_for_problem(response)
            yield response

    def resumed(self, once: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
        """Chunks of ``once()``, called again after every cut; ``once`` begins where the last chunk ended.

        An empty chunk is not passed on: it tells that there is an answer. One that stays open for longer than anybody
        waits for an answer was silent, and no failure; one that is cut before is, unless it brought something.
        """
        deadline: float | None = None
        attempt = 0
        while True:
            opened: float | None = None
            try:
                for chunk in once():
                    if chunk:
                        deadline, attempt = None, 0
                        yield chunk
                    else:
                        opened = self._clock()
                return
            except (httpx.TransportError, Unavailable) as error:
                now = self._clock()
                if opened is not None and now - opened > self.patience:
                    deadline, attempt = None, 0
                deadline = now + 4 * self.patience if deadline is None else deadline
                if now >= deadline:
                    raise self._cut(error) if opened is not None else self._unreachable(error) from error
                self._sleep(_BACK_OFF[min(attempt, len(_BACK_OFF) - 1)])
                attempt += 1

    def _cut(self, error: Exception) -> ModelworksError:
        if isinstance(error, ModelworksError):
            return error
        said = f"the platform at {self.url} answers, and breaks off each time: {error}"
        return PlatformUnreachable(said, remedy="see `mw status`, and controller.log in the folder of its logs")

    def _patiently(self, once: Callable[[], Any], may_repeat: bool) -> Any:
        began, attempt = self._clock(), 0
        failure: Exception
        while True:
            try:
                return once()
            except httpx.ConnectError as error:  # nothing was sent: every request may be repeated
                failure, patience = error, min(_REFUSED_PATIENCE, self.patience)
            except httpx.TransportError as error:
                failure, patience = error, self.patience if may_repeat else 0.0
            except Unavailable as error:
                failure, patience = error, self.patience if may_repeat else 0.0
            if self._clock() - began >= patience:
                if isinstance(failure, ModelworksError):
                    raise failure
                raise self._unreachable(failure) from failure
            self._sleep(_BACK_OFF[min(attempt, len(_BACK_OFF) - 1)])
            attempt += 1

    def _unreachable(self, error: Exception) -> ModelworksError:
        if isinstance(error, ModelworksError):
            return error
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return PlatformUnreachable(f"the platform at {self.url} did not answer in time", remedy="see `mw status`")
        return PlatformUnreachable(f"no platform answers at {self.url}", remedy=UP_HINT)


def server_events(lines: Iterator[str]) -> Iterator[tuple[str, Any]]:
    """Server-sent events as (name, JSON data)."""
    name, data = "message", ""
    for line in lines:
        if not line:
            if data:
                yield name, json.loads(data)
            name, data = "message", ""
        elif line.startswith("event:"):
            name = line[6:].strip()
        elif line.startswith("data:"):
            data += line[5:].strip()


def _present(params: dict[str, Any] | None) -> dict[str, Any]:
    return {
        key: str(value).lower() if isinstance(value, bool) else value
        for key, value in (params or {}).items()
        if value is not None
    }


def _raise_for_problem(response: httpx.Response) -> None:
    if not response.is_error:
        return
    try:
        body = response.json()
    except ValueError:
        body = {}
    if not isinstance(body, dict) or not ("detail" in body or "title" in body):
        body = {"detail": f"{response.request.url.path} answered {response.status_code} {response.reason_phrase}"}
    raise from_problem(body, response.status_code)


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise PlatformUnreachable(
            f"what answers at {response.request.url.host}:{response.request.url.port} is not Modelworks", remedy=UP_HINT
        ) from error
