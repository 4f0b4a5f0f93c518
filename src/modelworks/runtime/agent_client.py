"""A Runtime over an agent's Unix socket."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from modelworks.kernel.errors import Unavailable, from_problem
from modelworks.kernel.run import EnvironmentRef, NodeObservation, RunObservation, RunSpec
from modelworks.runtime.unix_http import NoAnswer, UnixHttp

_TIMEOUT = 10.0
_LEASE_TIMEOUT = 4.0  # within one lease there must be time for several tries
_STACKS_TIMEOUT = 30.0  # the agent itself takes no longer than a third of it, unless its machine is overloaded


class AgentClient:
    """One agent. Safe to use from several threads. No answer is :class:`Unavailable`, never an ended run."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self._http = UnixHttp(socket)

    def close(self) -> None:
        self._http.close()

    def healthy(self) -> bool:
        try:
            self._call("GET", "/healthz")
        except Unavailable:
            return False
        return True

    def node(self) -> NodeObservation:
        return NodeObservation.model_validate_json(self._call("GET", "/node"))

    def ensure(self, run: RunSpec) -> RunObservation:
        return RunObservation.model_validate_json(self._call("PUT", "/runs", json=run.dump()))

    def challenge(self) -> str:
        return str(self._read("POST", "/lease/challenge", timeout=_LEASE_TIMEOUT)["challenge"])

    def renew(self, challenge: str) -> None:
        self._call("POST", "/lease/renew", json={"challenge": challenge}, timeout=_LEASE_TIMEOUT)

    def stop(self, key: str, grace: float, reason: str = "Stopped", message: str = "") -> None:
        self._call("POST", "/runs/stop", json={"key": key, "grace": grace, "reason": reason, "message": message})

    def observe(self, prefix: str = "") -> Sequence[RunObservation]:
        items = self._read("GET", "/runs", params={"prefix": prefix})["items"]
        return [RunObservation.model_validate(item) for item in items]

    def changes(self, since: int, timeout: float) -> tuple[int, Sequence[str]]:
        params = {"since": since, "timeout": timeout}
        answer = self._read("GET", "/changes", params=params, timeout=timeout + _TIMEOUT)
        return int(answer["cursor"]), [str(key) for key in answer["keys"]]

    def log(self, key: str, offset: int = 0, limit: int = 1 << 20, part: str = "log") -> bytes:
        return self._call("GET", "/runs/log", params={"key": key, "offset": offset, "limit": limit, "part": part})

    def metrics(self, key: str) -> Iterator[dict[str, float]]:
        return iter(self._read("GET", "/runs/metrics", params={"key": key})["items"])

    def stacks(self, key: str, record: bool = False) -> str:
        answer = self._read("POST", "/runs/stacks", json={"key": key, "record": record}, timeout=_STACKS_TIMEOUT)
        return str(answer["stacks"])

    def forget(self, key: str) -> None:
        self._call("DELETE", "/runs", params={"key": key})

    def stop_all(self, grace: float) -> int:
        """Stop every run and wait until they ended; how many there were."""
        answer = self._read("POST", "/stop-all", json={"grace": grace}, timeout=grace + 30)
        return int(answer["stopped"])

    def build(self, environment: EnvironmentRef) -> Mapping[str, str]:
        """Begin to build an environment: ``{digest, state: building|ready|failed, message}``; ask again for its end."""
        answer: Mapping[str, str] = self._read("POST", "/environments", json=environment.dump())
        return answer

    def _read(self, method: str, path: str, **options: Any) -> Any:
        return orjson.loads(self._call(method, path, **options))

    def _call(self, method: str, path: str, *, timeout: float = _TIMEOUT, **options: Any) -> bytes:
        try:
            answer = self._http.call(method, path, timeout=timeout, **options)
        except NoAnswer as error:
            raise Unavailable(
                f"the agent at {self.socket} does not answer: {error}", remedy="see `mw status`", retry_after=1.0
            ) from error
        if answer.good:
            return answer.body
        raise from_problem(_problem(answer.body), answer.status)


def _problem(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
