"""Requests that two servers could read differently are refused before a replica sees them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.gateway_lab import AUTH, Lab, header
from tests.integration.test_gateway_proxy import run

POST = f"POST /api/predict/digits HTTP/1.1\r\nHost: h\r\n{AUTH}"
CHUNKED = POST + "Transfer-Encoding: chunked\r\n\r\n"
BAD = {
    "length and chunks": POST + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": POST + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths": POST + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "the same length twice": POST + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
    "a list of lengths": POST + "Content-Length: 5, 5\r\n\r\nhello",
    "a signed length": POST + "Content-Length: +5\r\n\r\nhello",
    "a negative length": POST + "Content-Length: -5\r\n\r\nhello",
    "an empty length": POST + "Content-Length:\r\n\r\nhello",
    "a huge length": POST + "Content-Length: 99999999999999999999\r\n\r\nhello",
    "a space before the colon": POST + "Content-Length : 5\r\n\r\nhello",
    "an unknown coding": POST + "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a coding before chunked": POST + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunked twice": POST + "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and identity": POST + "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "chunked after a tabulator": POST + "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": CHUNKED.replace("1.1", "1.0") + "0\r\n\r\n",
    "a bare line feed": POST + "A: b\nContent-Length: 5\r\n\r\nhello",
    "a bare carriage return": POST + "A: b\rContent-Length: 5\r\n\r\nhello",
    "line feeds only": POST.replace("\r\n", "\n") + "\n",
    "a folded header": POST + "A: b\r\n c: d\r\n\r\n",
    "a folded first header": "GET / HTTP/1.1\r\n Host: h\r\n\r\n",
    "a null": POST + "A: b\0c\r\n\r\n",
    "an invalid name": POST + "A(b: c\r\n\r\n",
    "an empty name": POST + ": c\r\n\r\n",
    "no host": f"GET /healthz HTTP/1.1\r\n{AUTH}\r\n",
    "two hosts": POST + "Host: other\r\n\r\n",
    "two authorizations": POST + AUTH + "\r\n",
    "a chunk size that overflows": CHUNKED + "fffffffffffffffff\r\n",
    "a hexadecimal prefix": CHUNKED + "0x5\r\nhello\r\n0\r\n\r\n",
    "a line feed after a chunk size": CHUNKED + "5\nhello\r\n0\r\n\r\n",
    "a line feed after a chunk": CHUNKED + "5\r\nhello\n0\r\n\r\n",
    "a line feed in an extension": CHUNKED + "5;a\nb\r\nhello\r\n0\r\n\r\n",
    "a space in the target": "GET /a b HTTP/1.1\r\nHost: h\r\n\r\n",
    "a control character in the target": "GET /a\x01 HTTP/1.1\r\nHost: h\r\n\r\n",
    "an unknown method": "G3T / HTTP/1.1\r\nHost: h\r\n\r\n",
    "CONNECT": "CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n",
    "a user in the target": "GET http://u@h/healthz HTTP/1.1\r\nHost: h\r\n\r\n",
    "a body before a tunnel": POST + "Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 2\r\n\r\nxx",
    "another protocol": "\x16\x03\x01\x00\xa5\x01\x00\x00",
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_an_ambiguous_request_is_refused_and_ends_the_connection(tmp_path: Path, data: str) -> None:
    async def body(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica)
        client = await lab.client()
        await client.send(data + "GET /healthz HTTP/1.1\r\nHost: smuggled\r\n\r\n")
        status, head, _ = await client.answer()
        assert status == 400
        assert header(head, "connection") == "close"
        assert await client.closed() == b""
        assert replica.bodies == []

    run(tmp_path, body)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        ("GET /healthz HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        (f"GET /{'a' * 9000} HTTP/1.1\r\nHost: h\r\n\r\n", 414),
        (f"GET /{'a' * 70_000}", 414),
        (f"GET /healthz HTTP/1.1\r\nHost: h\r\nA: {'a' * 700_000}", 431),
        ("GET /healthz HTTP/1.1\r\nHost: h\r\n" + "A: a\r\n" * 200 + "\r\n", 431),
        (POST + "Expect: something\r\nContent-Length: 1\r\n\r\nx", 417),
        (CHUNKED + "1;" + "a" * 200_000, 431),
        (CHUNKED + "1\r\nx\r\n0\r\n" + "A: " + "a" * 200_000, 431),
    ],
)
def test_the_limits_of_a_request(tmp_path: Path, data: str, status: int) -> None:
    async def body(lab: Lab) -> None:
        lab.route(await lab.replica())
        client = await lab.client()
        for i in range(0, len(data), 16_384):  # in parts, as they come over a network
            await client.send(data[i : i + 16_384])
        assert (await client.answer())[0] == status

    run(tmp_path, body)


def test_an_answered_upgrade_to_http2_is_not_followed(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica)
        client = await lab.client()
        await client.send(
            f"GET /api/predict/digits HTTP/1.1\r\nHost: h\r\n{AUTH}Connection: Upgrade, HTTP2-Settings\r\n"
            "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        )
        status, head, _ = await client.answer()
        assert (status, header(head, "connection")) == (200, "close")
        assert await client.closed() == b""
        assert len(replica.heads) == 1
        assert b"h2c" not in replica.heads[0]
        assert b"HTTP2" not in replica.heads[0]

    run(tmp_path, body)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\nSet-Cookie: x\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 300 + b"Content-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: " + b"b" * 1_000_000,
    ],
)
def test_an_ambiguous_answer_is_not_passed_on(tmp_path: Path, answer: bytes) -> None:
    async def body(lab: Lab) -> None:
        async def handler(replica, reader, writer) -> None:  # type: ignore[no-untyped-def]
            await replica.read_body(reader, await replica.read_head(reader))
            writer.write(answer)
            await reader.read()

        lab.route(await lab.replica(handler))
        assert (await (await lab.client()).post())[0] == 502

    run(tmp_path, body)


def test_bytes_after_an_answer_are_not_the_next_answer(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        async def handler(replica, reader, writer) -> None:  # type: ignore[no-untyped-def]
            while True:
                await replica.read_body(reader, await replica.read_head(reader))
                ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"
                writer.write(ok + b"ok" + ok + b"no")

        replica = await lab.replica(handler)
        lab.route(replica)
        client = await lab.client()
        for _ in range(3):
            assert (await client.post())[::2] == (200, b"ok")
        assert replica.connections == 3

    run(tmp_path, body)
