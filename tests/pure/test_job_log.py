"""The log of a job across its attempts, byte by byte."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from modelworks.kernel.errors import Unavailable
from modelworks.products.context import Context
from modelworks.products.logs import LogResponse, Parts, stream


class Node:
    """A runtime that holds logs, and only that."""

    def __init__(self, logs: dict[str, bytes]) -> None:
        self.logs = logs

    def log(self, key: str, offset: int = 0, limit: int = 1 << 20) -> bytes:
        return self.logs.get(key, b"")[offset : offset + min(limit, 4)]


class Shared:
    """A context of one node."""

    def __init__(self, logs: dict[str, bytes]) -> None:
        self.node = Node(logs)

    def holders(self, key: str) -> list[Any]:
        return [self.node]


def collect(
    logs: dict[str, bytes], parts: Callable[[], Parts | None], offset: int = 0, *, follow: bool = False
) -> bytes:
    async def read() -> bytes:
        pieces = [piece async for piece in stream(cast(Context, Shared(logs)), "default", parts, offset, follow=follow)]
        return b"".join(pieces)

    return asyncio.run(read())


LOGS = {"a1": b"first attempt\n", "a2": b"second\n"}
WHOLE = b"first attempt\nsecond\n"


@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("offset", [0, 1, 5, 14, 15, 20, 21, 100])
def test_any_offset_goes_on_where_it_was(offset: int, follow: bool) -> None:
    ended = Parts(("a1", "a2"), 2, complete=True)
    assert collect(LOGS, lambda: ended, offset, follow=follow) == WHOLE[offset:]


def test_without_follow_what_is_there() -> None:
    assert collect({"a1": b"so far"}, lambda: Parts(("a1",), 0)) == b"so far"
    assert collect({}, Parts) == b""


def test_a_follower_sees_what_is_written_before_the_end_is_known() -> None:
    logs = {"a1": b"one\n"}
    asked: list[int] = []

    def parts() -> Parts | None:
        """The run writes once more and ends between two looks; then another attempt begins and ends."""
        asked.append(1)
        if len(asked) == 1:
            return Parts(("a1",), 0)
        if len(asked) == 2:
            logs["a1"] += b"last words\n"
            return Parts(("a1",), 1)
        logs["a2"] = b"again\n"
        return Parts(("a1", "a2"), 2, complete=True)

    assert collect(logs, parts, follow=True) == b"one\nlast words\nagain\n"


def test_a_deleted_job_ends_the_log() -> None:
    answers = iter([Parts(("a1",), 0), None])
    assert collect({"a1": b"x"}, lambda: next(answers), follow=True) == b"x"


def answer(parts: Callable[[], Parts | None], **logs: bytes) -> httpx.Response:
    app = FastAPI()

    @app.exception_handler(Unavailable)
    def problem(_: Any, error: Unavailable) -> Any:
        return JSONResponse(error.problem(), error.status)

    @app.get("/log", response_class=LogResponse)
    def log() -> LogResponse:
        return LogResponse(stream(cast(Context, Shared(logs)), "default", parts, 0, follow=True))

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://mw.test") as client:
            return await client.get("/log")

    return asyncio.run(ask())


def test_what_is_wrong_at_the_first_look_is_a_problem() -> None:
    def away() -> Parts | None:
        raise Unavailable("the object store does not answer")

    found = answer(away)
    assert (found.status_code, found.json()["detail"]) == (503, "the object store does not answer")
    assert answer(lambda: Parts(("a1", "a2"), 2, complete=True), **LOGS).content == WHOLE
    assert answer(lambda: Parts(complete=True)).content == b""


def test_a_silent_log_is_answered() -> None:
    async def first() -> bytes:
        return await anext(stream(cast(Context, Shared({})), "default", lambda: Parts(("a1",)), 0, follow=True))

    assert asyncio.run(first()) == b""
