"""Requests and answers that are taken from memory are those that the parser would have read."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import httptools
import pytest
from tests.gateway_lab import AUTH, Lab, Replica, header, request
from tests.integration.test_gateway_proxy import run

from modelworks.gateway import protocol, upstream


class Parsers:
    """Counts what is fed to the parsers of both sides."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.requests = self.answers = 0
        outer = self

        class Requests:
            def __init__(self, callbacks: object) -> None:
                self._inner = httptools.HttpRequestParser(callbacks)

            def feed_data(self, data: bytes) -> None:
                outer.requests += 1
                self._inner.feed_data(data)

            def __getattr__(self, name: str) -> object:
                return getattr(self._inner, name)

        class Answers(Requests):
            def __init__(self, callbacks: object) -> None:
                self._inner = httptools.HttpResponseParser(callbacks)

            def feed_data(self, data: bytes) -> None:
                outer.answers += 1
                self._inner.feed_data(data)

        for module, name, double in (
            (protocol, "HttpRequestParser", Requests),
            (upstream, "HttpResponseParser", Answers),
        ):
            stand_in = type("httptools", (), {**vars(httptools), name: double})
            monkeypatch.setattr(module, "httptools", stand_in)


def test_what_repeats_is_parsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsers = Parsers(monkeypatch)

    async def test(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica)
        client = await lab.client()
        first = await client.post(b"one")
        for body in (b"other", b"", b"x" * 20_000, b"again"):
            status, head, answer = await client.post(body)
            assert (status, answer) == (200, body)
            assert head.replace(b"Content-Length: %d\r\n" % len(body), b"Content-Length: 3\r\n") == first[1]
        assert [len(b) for b in replica.bodies] == [3, 5, 0, 20_000, 5]
        first_head = replica.heads[0]
        for head, body in zip(replica.heads, replica.bodies, strict=True):
            assert head == first_head.replace(b"Content-Length: 3\r\n", b"Content-Length: %d\r\n" % len(body))
        assert replica.connections == 1
        assert parsers.requests == 1
        assert parsers.answers <= 2  # a large body may come in two reads
        assert lab.gateway.services[b"digits"].metrics.answers == {200: 5}

    run(tmp_path, test)


def test_a_token_is_checked_each_time(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica)
        client = await lab.client()
        assert [(await client.post())[0] for _ in range(2)] == [200, 200]
        lab.route(replica, token_sha256=[hashlib.sha256(b"new").hexdigest()])
        assert (await client.post())[0] == 401
        lab.route(replica, max_body=3)
        assert (await client.post())[0] == 200
        lab.route(replica, state="stopped")
        assert (await client.post())[0] == 503
        lab.route(replica, max_body=3)
        assert (await client.post(b"four"))[0] == 413

    run(tmp_path, test)


PARTS: dict[str, Callable[[bytes], list[bytes]]] = {
    "body later": lambda data: [data[:-2], data[-2:]],
    "head in two": lambda data: [data[:20], data[20:]],
    "byte first": lambda data: [data[:1], data[1:]],
    "empty lines before": lambda data: [b"\r\n\r\n" + data],
}


@pytest.mark.parametrize("parts", PARTS.values(), ids=PARTS.keys())
def test_a_known_head_in_pieces_is_parsed(tmp_path: Path, parts: Callable[[bytes], list[bytes]]) -> None:
    async def test(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica)
        client = await lab.client()
        for _ in range(2):
            assert (await client.post(b"body"))[2] == b"body"
            for part in parts(request(b"BODY")):
                await client.send(part)
                await asyncio.sleep(0.01)
            assert (await client.answer())[2] == b"BODY"
        assert replica.bodies == [b"body", b"BODY"] * 2

    run(tmp_path, test)


def test_a_known_head_after_half_a_method_is_what_the_parser_makes_of_it(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica)
        client = await lab.client()
        for _ in range(2):
            await client.post()
        await client.send(b"G")
        await asyncio.sleep(0.02)
        await client.send(request(b"smuggled"))
        assert (await client.answer())[0] == 400
        assert replica.bodies == [b"x", b"x"]

    run(tmp_path, test)


def test_known_requests_in_one_read_are_answered_in_order(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica)
        client = await lab.client()
        await client.post()
        await client.send(request(b"a") + request(b"b"))
        await client.send(request(b"c"))
        assert [(await client.answer())[2] for _ in range(3)] == [b"a", b"b", b"c"]

    run(tmp_path, test)


Writer = Callable[[asyncio.StreamWriter, int], Awaitable[None]]
PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def answering(*answers: bytes) -> Callable[[Replica, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    """A replica that gives these answers in turn, on one connection or on several."""
    left = list(answers)

    async def handler(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while left:
            await replica.read_body(reader, await replica.read_head(reader))
            writer.write(left.pop(0))
            await writer.drain()

    return handler


def test_what_follows_a_known_answer_is_not_the_next_one(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        # The second brings an answer that nobody asked for: it ends its connection, and reaches no client.
        replica = await lab.replica(answering(PLAIN, PLAIN + PLAIN.replace(b"ok", b"no"), PLAIN))
        lab.route(replica)
        client = await lab.client()
        assert [(await client.post())[2] for _ in range(3)] == [b"ok"] * 3
        assert replica.connections == 2

    run(tmp_path, test)


def test_a_known_answer_after_an_interim_one(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        hints = b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n"
        replica = await lab.replica(answering(PLAIN, hints + PLAIN, PLAIN))
        lab.route(replica)
        client = await lab.client()
        assert (await client.post())[0] == 200
        await client.send(request())
        assert b"103 Early Hints" in await client.head()
        assert (await client.answer())[2] == b"ok"
        assert (await client.post())[2] == b"ok"

    run(tmp_path, test)


def test_a_known_answer_to_another_method_or_a_closing_client(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        head = PLAIN[:-2]
        replica = await lab.replica(answering(PLAIN, head, PLAIN, PLAIN))
        lab.route(replica)
        client = await lab.client()
        assert (await client.post())[2] == b"ok"
        await client.send(request(b"").replace(b"POST", b"HEAD"))
        assert header(await client.head(), "content-length") == "2"
        assert (await client.post())[2] == b"ok"
        status, answer, body = await client.post(extra=AUTH + "Connection: close\r\n")
        assert (status, header(answer, "connection"), body) == (200, "close", b"ok")
        assert await client.closed() == b""

    run(tmp_path, test)


def test_answers_that_end_their_connection_are_not_remembered(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        closing = PLAIN.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        replica = await lab.replica(answering(closing, closing, closing))
        lab.route(replica)
        client = await lab.client()
        assert [(await client.post())[2] for _ in range(3)] == [b"ok"] * 3
        assert replica.connections == 3

    run(tmp_path, test)
