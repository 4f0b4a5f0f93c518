"""What is asked of an asynchronous service: submit, poll, wait, follow, cancel."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs, unquote

from modelworks.courier.addresses import check_webhook
from modelworks.courier.counters import Counters
from modelworks.courier.database import Away, Link
from modelworks.courier.http import Reply, Request
from modelworks.courier.outcome import cancelled, kept_headers
from modelworks.courier.service import Service
from modelworks.courier.submit import Full, Submission, Submitter
from modelworks.courier.waiting import Waiting
from modelworks.db import tasks as sql
from modelworks.gateway.problems import Problem

_ID = re.compile(r"[0-9a-f]{32}")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|)")
_LONGEST_WAIT = 300.0
_HEARTBEAT = 15.0
_LARGEST_EVENT = 1024 * 1024  # a longer result is fetched, and not told in an event
_ID_HEADER = "X-Eas-Queueservice-Request-Id"
_JSON = ("Content-Type", "application/json")
_NO_STORE = ("Cache-Control", "no-store")
# Headers of a submission that are for us, for the connection, or for the gateway alone.
_NOT_KEPT = frozenset(
    ("host", "content-length", "transfer-encoding", "connection", "keep-alive", "authorization", "expect", "upgrade",
     "te", "trailer", "accept-encoding")
)  # fmt: skip
_AWAY = Problem(
    503,
    "unavailable",
    "The database does not answer, so nothing can be kept: no task was accepted.",
    remedy="Repeat the request in a moment, with an Idempotency-Key to be sure that it runs once.",
    retry_after=2,
)
_NO_TASK = Problem(
    404,
    "not-found",
    "There is no such task of this service.",
    remedy="It never was, or its result has expired (`tasks.result_ttl` of the service).",
)


class Desk:
    """``stored`` is called with a service's uid when one of its tasks has been stored."""

    def __init__(
        self,
        services: Mapping[str, Service],
        counters: Callable[[str], Counters],
        submitter: Submitter,
        link: Link,
        waiting: Waiting,
        stored: Callable[[str], None],
    ) -> None:
        self._services, self._counters, self._submitter = services, counters, submitter
        self._link, self._waiting, self._stored = link, waiting, stored

    async def answer(self, request: Request) -> Reply | Problem:
        """One request, as the gateway passed it on."""
        service = self._services.get(request.header("x-mw-service-uid") or "")
        if service is None:
            return Problem(503, "unavailable", "The service is not known here yet.", retry_after=1)
        path, _, query = request.target.partition("?")
        asked = parse_qs(query)
        try:
            if request.method == "POST":
                return await self._submit(service, request)
            parts = [unquote(part) for part in path.split("/") if part]
            if len(parts) > 1 and parts[0] == "tasks" and not _ID.fullmatch(parts[1]):
                return _NO_TASK
            if request.method in ("GET", "HEAD"):
                if parts == ["sink"]:
                    return await self._sink(service, asked)
                if len(parts) == 2 and parts[0] == "tasks":
                    return await self._state(service, parts[1], asked)
                if len(parts) == 3 and parts[0] == "tasks" and parts[2] == "events":
                    return await self._follow(service, parts[1])
                if not parts:
                    return _json(200, {"service": service.route.service, "tasks": True})
            if request.method == "DELETE" and len(parts) == 2 and parts[0] == "tasks":
                return await self._cancel(service, parts[1])
        except Away:
            self._counters(service.uid).refuse("unavailable")
            return _AWAY
        return Problem(
            405 if request.method not in ("GET", "HEAD") else 404,
            "method-not-allowed" if request.method not in ("GET", "HEAD") else "not-found",
            f"{service.route.service} is an asynchronous service: POST submits a task.",
            remedy="Results are at sink?requestId=ID and tasks/ID; see docs/serving-async.md.",
        )

    async def _submit(self, service: Service, request: Request) -> Reply | Problem:
        counters, terms = self._counters(service.uid), service.terms
        if service.route.state == "stopped":
            counters.refuse("unavailable")
            return Problem(
                503,
                "unavailable",
                f"Service {service.route.service} is stopped, and takes no new tasks.",
                remedy=f"`mw service start {service.route.service}`; its pending tasks are kept.",
                retry_after=30,
            )
        webhook = request.header("x-mw-webhook") or terms.webhook
        wrong = check_webhook(webhook) if webhook else None
        if wrong:
            counters.refuse("invalid")
            return Problem(422, "invalid", f"The webhook {webhook!r} cannot be called: {wrong}.")
        key = request.header("idempotency-key")
        id = _id_of(service.uid, key) if key else secrets.token_hex(16)
        headers = [[name, value] for name, value in request.headers if _kept(name)]
        submission = Submission(
            id=id,
            uid=service.uid,
            request={"method": request.method, "path": request.target, "headers": headers},
            body=request.body,
            webhook=webhook,
            most=terms.max_pending,
        )
        try:
            await self._submitter.store(submission)
        except Full:
            counters.refuse("limit-exceeded")
            return Problem(
                429,
                "limit-exceeded",
                f"Service {service.route.service} has {terms.max_pending} tasks that are not done.",
                remedy="Repeat the request later, or raise `tasks.max_pending` or the replicas of the service.",
                retry_after=self._retry_after(counters),
            )
        counters.arrived += 1
        self._stored(service.uid)
        base = f"/api/predict/{service.route.service}"
        document = {"id": id, "url": f"{base}/sink?requestId={id}", "state_url": f"{base}/tasks/{id}"}
        return _json(202, document, (_ID_HEADER, id), ("Location", document["state_url"]))

    def _retry_after(self, counters: Counters) -> int:
        """Seconds in which a tenth of the queue should have gone, from the mean of the answers so far."""
        answered = sum(one.answered for one in counters.revisions.values())
        seconds = sum(one.seconds for one in counters.revisions.values())
        if not answered or not counters.in_flight:
            return 10
        return min(60, max(1, round(counters.pending / 10 * seconds / answered / counters.in_flight)))

    async def _sink(self, service: Service, asked: Mapping[str, list[str]]) -> Reply | Problem:
        id = (asked.get("requestId") or asked.get("request_id") or [""])[-1]
        if not id:
            return Problem(400, "bad-request", "sink needs the task: sink?requestId=ID.")
        if not _ID.fullmatch(id):
            return _NO_TASK
        document = await self._awaited(service, id, asked)
        if isinstance(document, Problem):
            return document
        if document["state"] != "done":
            return Reply(204, ((_ID_HEADER, id), _NO_STORE))
        found = await self._link.run(
            lambda connection: _row(connection, sql.GET_RESULT, (service.uid, id)),
        )
        if found is None:
            return _NO_TASK
        status, answer, result = found
        headers = [(str(name), str(value)) for name, value in answer or ()]
        return Reply(int(status), (*headers, (_ID_HEADER, id)), bytes(result or b""))

    async def _state(self, service: Service, id: str, asked: Mapping[str, list[str]]) -> Reply | Problem:
        document = await self._awaited(service, id, asked)
        return document if isinstance(document, Problem) else _json(200, document, (_ID_HEADER, id))

    async def _awaited(self, service: Service, id: str, asked: Mapping[str, list[str]]) -> dict[str, Any] | Problem:
        """The task's document: at once, or as soon as it is done within ``wait``."""
        text = (asked.get("wait") or ["0s"])[-1]
        try:
            # A request that hangs longer than the gateway waits for its first byte would be cut off.
            wait = min(_seconds(text), _LONGEST_WAIT, service.route.keepalive * 0.8)
        except ValueError as error:
            return Problem(400, "bad-request", f"wait: {error}")
        loop = asyncio.get_running_loop()
        end = loop.time() + wait
        while True:
            document = await self._document(service, id)
            left = end - loop.time()
            if document is None:
                return _NO_TASK
            if document["state"] == "done" or left <= 0:
                return document
            await self._waiting.change(id, (document["state"], document["attempts"]), left)

    async def _follow(self, service: Service, id: str) -> Reply | Problem:
        document = await self._document(service, id)
        if document is None:
            return _NO_TASK
        headers = (("Content-Type", "text/event-stream"), _NO_STORE, (_ID_HEADER, id))
        return Reply(200, headers, stream=self._events(service, id, document))

    async def _events(self, service: Service, id: str, document: dict[str, Any] | None) -> AsyncIterator[bytes]:
        told: dict[str, Any] | None = None
        while document is not None:
            if document != told:
                told = document
                yield _event("state", document)
            if document["state"] == "done":
                yield await self._result_event(service, id)
                return
            try:
                await self._waiting.change(id, (document["state"], document["attempts"]), _HEARTBEAT)
                document = await self._document(service, id)
            except Away:
                await asyncio.sleep(1.0)
            if document == told:
                yield b": still here\n\n"
        yield _event("gone", {"id": id})

    async def _result_event(self, service: Service, id: str) -> bytes:
        try:
            found = await self._link.run(lambda connection: _row(connection, sql.GET_RESULT, (service.uid, id)))
        except Away:
            found = None
        if found is None:
            return _event("gone", {"id": id})
        status, answer, result = found
        document: dict[str, Any] = {"id": id, "status": status, "headers": dict(answer or ())}
        body = bytes(result or b"")
        if len(body) > _LARGEST_EVENT:
            document["bytes"] = len(body)
        else:
            try:
                document["body"] = body.decode()
            except UnicodeDecodeError:
                document["body_base64"] = base64.b64encode(body).decode()
        return _event("result", document)

    async def _cancel(self, service: Service, id: str) -> Reply | Problem:
        end = cancelled()
        terms = {
            "id": id,
            "uid": service.uid,
            "status": end.status,
            "answer": kept_headers(end.headers),
            "result": end.body,
            "ttl": service.terms.result_ttl,
        }
        done = await self._link.run(lambda connection: _row(connection, sql.CANCEL, terms))
        document = await self._document(service, id)
        if document is None:
            return _NO_TASK
        if done is None and document["status"] != end.status:
            state = "has ended" if document["state"] == "done" else "is being worked on"
            return Problem(409, "conflict", f"The task {state}: only a pending one can be cancelled.")
        self._waiting.tell([id])
        return _json(200, document)

    async def _document(self, service: Service, id: str) -> dict[str, Any] | None:
        found = await self._link.run(lambda connection: _row(connection, sql.GET, {"uid": service.uid, "id": id}))
        return None if found is None else document_of(found)


def document_of(row: tuple[Any, ...]) -> dict[str, Any]:
    """A task as it is shown: the columns of ``sql.STATE_COLUMNS``."""
    id, state, attempts, created, finished, expires, status = row
    times = {"created_at": created, "finished_at": finished, "expires_at": expires}
    return {
        "id": id,
        "state": state,
        "status": status,
        "attempts": attempts,
        **{name: at.isoformat() if isinstance(at, datetime) else None for name, at in times.items()},
    }


def _seconds(text: str) -> float:
    """``30s``, ``500ms``, ``2m`` or plain seconds. Raises ValueError."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"not a duration: {text!r}; write 30s")
    return float(found[1]) * {"ms": 0.001, "m": 60.0}.get(found[2], 1.0)


def _id_of(uid: str, key: str) -> str:
    return hashlib.sha256(f"{uid}/{key}".encode("latin-1", "replace")).hexdigest()[:32]


def _kept(name: str) -> bool:
    return name not in _NOT_KEPT and not name.startswith("x-mw-")


def _json(status: int, document: Mapping[str, Any], *headers: tuple[str, str]) -> Reply:
    return Reply(status, (_JSON, _NO_STORE, *headers), json.dumps(document).encode())


def _event(name: str, document: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(document)}\n\n".encode()


async def _row(connection: Any, statement: str, terms: Any) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = await (await connection.execute(statement, terms)).fetchone()
    return row
