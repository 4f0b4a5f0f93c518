"""Requests of one client that differ in a header or two are not parsed, and read no otherwise than by the parser."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from tests.gateway_lab import AUTH, TOKEN, Lab, Replica, header
from tests.integration.test_gateway_proxy import run

from modelworks.gateway.heads import RequestHead
from modelworks.gateway.known import KnownRequest
from modelworks.gateway.protocol import ClientConnection
from modelworks.gateway.unlike import Patterns


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The targets of requests that the parser has read."""
    seen: list[bytes] = []
    plain = ClientConnection.on_headers_complete

    def watched(self: ClientConnection) -> None:
        seen.append(self._target)
        plain(self)

    monkeypatch.setattr(ClientConnection, "on_headers_complete", watched)
    return seen


async def ready(lab: Lab, **changes: object) -> Replica:
    replica = await lab.replica()
    lab.route(replica, **changes)
    return replica


def test_values_that_differ_pass_and_the_rest_is_the_heads_own(tmp_path: Path, parsed: list[bytes]) -> None:
    async def body(lab: Lab) -> None:
        replica = await ready(lab)
        client = await lab.client()
        for i in range(20):
            extra = f"A: 100%\r\nX-Request-Id: {i * 7919}\r\n{AUTH}Traceparent: 00-{i % 3}; 100% b\r\nZ: z\r\n"
            data = b"y" * (i % 5)
            status, _, answer = await client.post(data, "/api/predict/digits/a%20b?c=%25", extra)
            assert (status, answer) == (200, data)
            head = replica.heads[-1]
            assert head.startswith(b"POST /a%20b?c=%25 HTTP/1.1\r\n")
            for name, value in (
                ("x-request-id", str(i * 7919)),
                ("traceparent", f"00-{i % 3}; 100% b"),
                ("a", "100%"),
                ("z", "z"),
                ("content-length", str(i % 5)),
                ("x-forwarded-host", "h"),
                ("authorization", None),
            ):
                assert header(head, name) == value
            assert head.lower().count(b"content-length") == 1
        assert len(parsed) < 8

    run(tmp_path, body)


def test_without_a_body_and_with_its_length_before_the_values(tmp_path: Path, parsed: list[bytes]) -> None:
    async def body(lab: Lab) -> None:
        replica = await ready(lab)
        client = await lab.client()
        for i in range(8):
            await client.send(f"GET /api/predict/digits HTTP/1.1\r\nHost: h\r\n{AUTH}X-Id: {i}\r\n\r\n")
            assert (await client.answer())[0] == 200
            assert header(replica.heads[-1], "x-id") == str(i)
        for i in range(8):
            data = f"POST /api/predict/digits HTTP/1.1\r\ncontent-length: {i}\r\nHost: h\r\n{AUTH}X-Id: {i}\r\n\r\n"
            await client.send(data.encode() + b"y" * i)
            assert (await client.answer())[2] == b"y" * i
            assert header(replica.heads[-1], "x-id") == str(i)
        assert len(parsed) == 4

    run(tmp_path, body)


@pytest.mark.parametrize(
    "value",
    ["a\x00b", "a\x01b", "a\rb", "a\nb", "a\r\n b", "", " a", "\ta", "é", "a\x7f", "b" * 600],
    ids=repr,
)
def test_what_is_no_plain_value_is_left_to_the_parser(tmp_path: Path, parsed: list[bytes], value: str) -> None:
    async def body(lab: Lab) -> None:
        replica = await ready(lab)
        client = await lab.client()
        for i in range(4):
            assert (await client.post(extra=f"{AUTH}X-Id: {i}\r\n"))[0] == 200
        before = len(parsed)
        await client.send(
            f"POST /api/predict/digits HTTP/1.1\r\nHost: h\r\n{AUTH}X-Id: {value}\r\nContent-Length: 1\r\n\r\nx"
        )
        status = (await client.answer())[0]
        if status == 200:
            assert len(parsed) == before + 1
            assert header(replica.heads[-1], "x-id") == value.strip()
        else:
            assert status == 400
            assert len(replica.bodies) == 4

    run(tmp_path, body)


@pytest.mark.parametrize(
    "line",
    [
        "Authorization: Bearer wrong{i}\r\n",
        f"{AUTH}X-Mw-Role: {{i}}\r\n",
        f"{AUTH}X-Forwarded-For: {{i}}\r\n",
        f"{AUTH}X-Twice: {{i}}\r\nX-Twice: b\r\n",
        f"{AUTH}Connection: x-{{i}}\r\nX-0: secret\r\nX-1: secret\r\n",
        f"{AUTH}Expect: 100-continue\r\nX-Id: {{i}}\r\n",
        f"{AUTH}X-Id:{{i}}\r\n",
        f"{AUTH}X-Id:  {{i}}\r\n",
    ],
)
def test_headers_that_mean_something_are_read_each_time(tmp_path: Path, parsed: list[bytes], line: str) -> None:
    async def body(lab: Lab) -> None:
        replica = await ready(lab)
        client = await lab.client()
        for i in range(6):
            await client.send(
                f"POST /api/predict/digits HTTP/1.1\r\nHost: h\r\n{line.format(i=i)}Content-Length: 1\r\n\r\n"
            )
            if "Expect" in line:
                assert (await client.head()).startswith(b"HTTP/1.1 100")
            await client.send(b"x")
            status, _, _ = await client.answer()
            assert status == (401 if "wrong" in line else 200)
        assert len(parsed) == 6
        for i, head in enumerate(replica.heads):
            assert b"X-Mw-Role" not in head
            assert header(head, "x-forwarded-for") == "127.0.0.1"
            if "x-{i}" in line and i < 2:
                assert f"X-{i}".encode() not in head
                assert f"X-{1 - i}".encode() in head

    run(tmp_path, body)


def test_a_token_that_is_no_longer_valid_is_refused(tmp_path: Path, parsed: list[bytes]) -> None:
    async def body(lab: Lab) -> None:
        replica = await ready(lab)
        client = await lab.client()
        for i in range(5):
            assert (await client.post(extra=f"{AUTH}X-Id: {i}\r\n"))[0] == 200
        lab.route(replica, token_sha256=["00" * 32])
        assert (await client.post(extra=f"{AUTH}X-Id: 6\r\n"))[0] == 401
        assert len(parsed) == 3

    run(tmp_path, body)


def test_a_connection_whose_heads_always_change_otherwise_makes_few_patterns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[bytes] = []
    known = Patterns._make

    def counted(self: object, *arguments: object) -> None:
        made.append(b"")
        known(self, *arguments)

    monkeypatch.setattr(Patterns, "_make", counted)

    async def body(lab: Lab) -> None:
        await ready(lab)
        client = await lab.client()
        for i, name in zip(range(60), itertools.cycle("abcdefghijklmnopqrst"), strict=False):
            for j in range(2):
                assert (await client.post(extra=f"{AUTH}X-{name}{i}: {j}\r\n"))[0] == 200
        assert len(made) == 12

    run(tmp_path, body)


def test_the_head_of_a_request_that_fits_is_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that is busy makes an exchange of it, which needs the head."""
    heads: list[RequestHead] = []

    async def body(lab: Lab) -> None:
        await ready(lab)
        gateway = lab.gateway
        plain = gateway.repeat

        def watched(client: ClientConnection, straight: object, known: KnownRequest, data: bytes) -> bool:
            heads.append(known.head)
            return plain(client, straight, known, data)  # type: ignore[arg-type]

        gateway.repeat = watched  # type: ignore[method-assign,assignment]
        client = await lab.client()
        for i in range(4):
            await client.post(b"z" * i, extra=f"A: b\r\nX-Id: id-{i}\r\n{AUTH}")
        last = heads[-1]
        assert last.lines == [b"A", b": ", b"b", b"\r\n", b"X-Id", b": ", b"id-3", b"\r\n"]
        assert (last.method, last.length, last.authorization) == (b"POST", 3, f"Bearer {TOKEN}".encode())

    run(tmp_path, body)


@pytest.mark.parametrize("length", ["CONTENT-LENGTH: 0", "Content-Length:0", "content-Length:  0"])
def test_a_length_in_an_unusual_spelling_is_read_by_the_parser_each_time(tmp_path: Path, length: str) -> None:
    async def body(lab: Lab) -> None:
        replica = await ready(lab)
        client = await lab.client()
        for i in (0, 0, 0, 1, 2, 3):
            await client.send(f"POST /api/predict/digits HTTP/1.1\r\nHost: h\r\n{AUTH}X-Id: {i}\r\n{length}\r\n\r\n")
            assert (await client.answer())[0] == 200
            assert header(replica.heads[-1], "x-id") == str(i)
            assert replica.heads[-1].lower().count(b"content-length: 0\r\n") == 1

    run(tmp_path, body)
