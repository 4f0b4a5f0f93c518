"""What goes in a straight line, and how it leaves that line: nothing that may happen to an exchange is lost on it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from tests.gateway_lab import AUTH, Client, Lab, Replica, header, request
from tests.integration.test_gateway_proxy import run

from modelworks.gateway.exchange import Exchange
from modelworks.gateway.straight import Straight

PLAIN = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"


class Scripted:
    """Answers ``ok`` until ``script`` is set; then the next request is the script's."""

    def __init__(self) -> None:
        self.script: Callable[[asyncio.StreamWriter], Awaitable[None]] | None = None
        self.met = 0  # requests that the script was given

    async def __call__(self, replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await replica.read_body(reader, await replica.read_head(reader))
            script, self.script = self.script, None
            if script is None:
                writer.write(PLAIN + b"ok")
            else:
                self.met += 1
                await script(writer)
            await writer.drain()


async def straight(lab: Lab, **changes: object) -> tuple[Scripted, Replica, Client]:
    """A client whose next request of the same head goes straight."""
    scripted = Scripted()
    replica = await lab.replica(scripted)
    lab.route(replica, **changes)
    client = await lab.client()
    for _ in range(2):
        assert (await client.post())[2] == b"ok"
    return scripted, replica, client


def settled(lab: Lab) -> bool:
    admission = lab.gateway.services[b"digits"].admission
    return admission.in_flight == 0 and admission.queued == 0


def test_a_known_request_makes_no_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(lab: Lab) -> None:
        _, replica, client = await straight(lab)
        monkeypatch.setattr(Exchange, "__init__", None)
        for body in (b"x", b"", b"other"):
            assert (await client.post(body))[2] == b"ok"
        assert replica.bodies[2:] == [b"x", b"", b"other"]
        assert lab.gateway.services[b"digits"].metrics.answers == {200: 5}
        assert settled(lab)

    run(tmp_path, test)


async def in_pieces(writer: asyncio.StreamWriter) -> None:
    for i in range(len(PLAIN)):
        writer.write(PLAIN[i : i + 1])
        await asyncio.sleep(0)
    writer.write(b"o")
    await writer.drain()
    await asyncio.sleep(0.02)
    writer.write(b"k")


async def new_head(writer: asyncio.StreamWriter) -> None:
    writer.write(PLAIN[:-2] + b"New: head\r\n\r\nok")


async def chunked(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n")


async def until_close(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\nok")
    writer.write_eof()


@pytest.mark.parametrize("script", [in_pieces, new_head, chunked, until_close])
def test_an_answer_of_another_form(tmp_path: Path, script: Callable[[asyncio.StreamWriter], Awaitable[None]]) -> None:
    async def test(lab: Lab) -> None:
        scripted, _, client = await straight(lab)
        for _ in range(2):
            scripted.script = script
            assert (await client.post())[2] == b"ok"
            assert (await client.post())[2] == b"ok"
        assert scripted.met == 2
        assert settled(lab)
        assert lab.gateway.services[b"digits"].metrics.answers == {200: 6}

    run(tmp_path, test)


def test_an_answer_that_is_no_http(tmp_path: Path) -> None:
    async def garbage(writer: asyncio.StreamWriter) -> None:
        writer.write(b"\x00\x01 not HTTP\r\n\r\n")

    async def test(lab: Lab) -> None:
        scripted, _, client = await straight(lab)
        scripted.script = garbage
        assert (await client.post())[0] == 502
        assert (await client.post())[2] == b"ok"
        assert settled(lab)

    run(tmp_path, test)


def test_a_replica_that_hangs_up_on_a_request_that_it_has_read(tmp_path: Path) -> None:
    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def test(lab: Lab) -> None:
        scripted, replica, client = await straight(lab)
        scripted.script = hang_up
        assert (await client.post())[0] == 502
        assert replica.bodies == [b"x"] * 3  # it was not sent twice
        assert (await client.post())[2] == b"ok"
        assert settled(lab)

    run(tmp_path, test)


def test_a_replica_that_had_closed_its_idle_connection(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        _, replica, client = await straight(lab)
        replica.drop()
        assert (await client.post())[2] == b"ok"
        assert replica.connections == 2
        assert settled(lab)

    run(tmp_path, test)


def test_a_replica_that_says_nothing(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        scripted, _, client = await straight(lab, keepalive=0.2)
        never = asyncio.Event()
        scripted.script = lambda _: wait(never)
        assert (await client.post())[0] == 408
        assert (await client.post())[2] == b"ok"
        assert settled(lab)
        never.set()

    run(tmp_path, test)


async def wait(event: asyncio.Event) -> None:
    await event.wait()


def test_a_client_that_goes(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        scripted, replica, client = await straight(lab)
        never = asyncio.Event()
        scripted.script = lambda _: wait(never)
        await client.send(request())
        await replica.until(lambda: scripted.met == 1)
        client.close()
        async with asyncio.timeout(5):
            while not settled(lab) or lab.gateway.clients:
                await asyncio.sleep(0.01)
        assert lab.gateway.services[b"digits"].metrics.rejections == {"client-gone": 1}
        never.set()

    run(tmp_path, test)


def test_draining_while_it_is_on_its_way(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        scripted, _, client = await straight(lab)
        meet, answer = asyncio.Event(), asyncio.Event()

        async def later(writer: asyncio.StreamWriter) -> None:
            meet.set()
            await answer.wait()
            writer.write(PLAIN + b"ok")

        scripted.script = later
        await client.send(request())
        await meet.wait()
        lab.gateway.draining = True
        answer.set()
        status, head, body = await client.answer()
        assert (status, header(head, "connection"), body) == (200, "close", b"ok")
        assert await client.closed() == b""

    run(tmp_path, test)


def test_pipelined_behind_it(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        scripted, replica, client = await straight(lab)
        answer = asyncio.Event()

        async def later(writer: asyncio.StreamWriter) -> None:
            await answer.wait()
            writer.write(PLAIN + b"1.")

        scripted.script = later
        await client.send(request())
        await replica.until(lambda: scripted.met == 1)
        half = request(b"half")
        await client.send(request() + half[:9])
        await asyncio.sleep(0.02)
        answer.set()
        assert [(await client.answer())[2] for _ in range(2)] == [b"1.", b"ok"]
        await client.send(half[9:])
        assert (await client.answer())[2] == b"ok"
        assert replica.bodies[-1] == b"half"

    run(tmp_path, test)


def test_when_all_replicas_are_taken_it_queues(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        scripted, replica, client = await straight(lab, concurrency=1, queue_size=1)
        others = [await lab.client() for _ in range(2)]
        for other in others:
            assert (await other.post())[2] == b"ok"
        answer = asyncio.Event()

        async def later(writer: asyncio.StreamWriter) -> None:
            await answer.wait()
            writer.write(PLAIN + b"1.")

        scripted.script = later
        await client.send(request())
        await replica.until(lambda: scripted.met == 1)
        await others[0].send(request())
        async with asyncio.timeout(5):
            while not lab.gateway.services[b"digits"].admission.queued:
                await asyncio.sleep(0.01)
        status, head, _ = await others[1].post()
        assert (status, header(head, "retry-after")) == (429, "1")
        answer.set()
        assert (await client.answer())[2] == b"1."
        assert (await others[0].answer())[2] == b"ok"
        assert settled(lab)

    run(tmp_path, test)


def test_a_client_that_does_not_read_its_large_answers(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        large = b"y" * 60_000
        replica = await lab.replica(large_answers(large))
        lab.route(replica)
        client = await lab.client()
        count = 0
        client.writer.transport.set_write_buffer_limits(high=1 << 20)
        client.reader._transport.pause_reading()  # type: ignore[attr-defined]
        with pytest.MonkeyPatch.context() as patch:
            blocked = asyncio.Event()
            from_client = next(iter(lab.gateway.clients)).__class__
            inner = from_client.pause_writing

            def pause(self: object) -> None:
                inner(self)  # type: ignore[arg-type]
                blocked.set()

            patch.setattr(from_client, "pause_writing", pause)
            while not blocked.is_set():
                count += 1
                before = len(replica.bodies)
                await client.send(request())
                await replica.until(lambda: len(replica.bodies) > before)  # noqa: B023
                await asyncio.sleep(0.005)
            await client.send(request())
        client.reader._transport.resume_reading()  # type: ignore[attr-defined]
        for _ in range(count + 1):
            assert (await client.answer())[2] == large
        assert settled(lab)

    run(tmp_path, test)


def large_answers(body: bytes) -> Callable[[Replica, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
    async def handler(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await replica.read_body(reader, await replica.read_head(reader))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            await writer.drain()

    return handler


def test_a_token_that_was_rotated_ends_it_at_once(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        _, replica, client = await straight(lab)
        other = "Authorization: Bearer another\r\n"
        assert (await client.post(extra=other))[0] == 401
        assert (await client.post(extra=AUTH))[2] == b"ok"
        lab.route(replica, token_sha256=["00" * 32])
        assert (await client.post())[0] == 401

    run(tmp_path, test)


def test_what_is_not_allowed_is_not_remembered(tmp_path: Path) -> None:
    async def test(lab: Lab) -> None:
        replica = await lab.replica()
        lab.route(replica)
        client = await lab.client()
        for _ in range(3):
            assert (await client.post(extra="Authorization: Bearer guess\r\n"))[0] == 401
        (connection,) = lab.gateway.clients
        assert len(connection._recall._memory) == 0
        assert isinstance(connection._straight, Straight)

    run(tmp_path, test)
