"""Traffic between revisions, copies for a mirror, replicas that hang, and what the gateway reports of it all."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.gateway_lab import AUTH, QUICK, Client, Lab, Replica, header, lab, request
from tests.integration.test_gateway_limits import Gate, posting, until
from tests.integration.test_gateway_proxy import run

from modelworks.gateway.common import Hub
from modelworks.gateway.control import ControlSocket
from modelworks.gateway.reports import document
from modelworks.gateway.table import EMPTY
from modelworks.gateway.usual import Usual
from modelworks.kernel.traffic import Sample


def revisions(lab: Lab, *replicas: tuple[str, Replica], **changes: Any) -> None:
    """A route with these replicas, each with its revision."""
    found = [
        {"id": f"{name}-{i}", "address": f"unix:{replica.path}", "revision": name}
        for i, (name, replica) in enumerate(replicas)
    ]
    lab.route(replicas=found, **changes)


async def shares(lab: Lab, count: int, extra: str = AUTH, client: Client | None = None) -> Counter[str]:
    client = client or await lab.client()
    found: Counter[str] = Counter()
    for _ in range(count):
        status, head, _ = await client.post(extra=extra)
        assert status == 200
        found[header(head, "x-mw-revision") or ""] += 1
    return found


def test_weights_are_shares(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        a, b = await lab.replica(), await lab.replica()
        for weight in (0, 10, 50, 100):
            revisions(lab, ("a", a), ("b", b), weights={"a": 100 - weight, "b": weight})
            assert (await shares(lab, 200))["b"] == 2 * weight
        revisions(lab, ("a", a), weights={"a": 50, "b": 50})  # none of b is ready
        assert await shares(lab, 20) == {"a": 20}

    run(tmp_path, body)


def test_a_value_of_the_sticky_header_stays_with_its_revision(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        a, b = await lab.replica(), await lab.replica()
        on_canary: set[int] = set()
        client = await lab.client()
        for weight in (10, 50, 90):
            revisions(
                lab, ("a", a), ("b", b), weights={"a": 100 - weight, "b": weight}, sticky_header="X-User-Id"
            )  # fmt: skip
            now: set[int] = set()
            for user in range(40):
                found = await shares(lab, 3, f"{AUTH}x-user-id: u{user}\r\n", client)
                assert len(found) == 1
                if "b" in found:
                    now.add(user)
            assert on_canary <= now
            on_canary = now
        assert 0 < len(on_canary) < 41
        # Who has no such header is shared out as ever.
        assert set(await shares(lab, 100)) == {"a", "b"}

    run(tmp_path, body)


def test_a_full_canary_holds_up_nobody_else(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        gate = Gate()
        stable, canary = await lab.replica(), await lab.replica(gate)
        revisions(
            lab, ("a", stable), ("b", canary), weights={"a": 50, "b": 50}, concurrency=1, queue_size=50,
        )  # fmt: skip
        clients = [await lab.client() for _ in range(30)]
        for client in clients:
            await client.send(request())
        service = lab.gateway.services[b"digits"]
        # All of the stable revision's have their answers while all but one of the canary's wait.
        await until(lambda: service.metrics.answers.get(200, 0) + service.admission.queued + 1 == 30)
        assert service.metrics.answers[200] >= 5
        assert gate.most == 1
        gate.open.set()
        assert [(await client.answer())[0] for client in clients] == [200] * 30
        assert gate.most == 1

    run(tmp_path, body)


@pytest.mark.parametrize("chunked", [False, True])
def test_a_mirror_gets_copies_and_the_caller_sees_nothing_of_it(tmp_path: Path, chunked: bool) -> None:
    async def body(lab: Lab) -> None:
        stable, mirror = await lab.replica(), await lab.replica()
        revisions(
            lab, ("a", stable), ("b", mirror), weights={"a": 100, "b": 0}, mirror={"revision": "b", "percent": 100},
        )  # fmt: skip
        service = lab.gateway.services[b"digits"]
        client = await lab.client()
        for i in range(5):
            if chunked:
                data = request(b"").replace(b"Content-Length: 0", b"Transfer-Encoding: chunked")
                await client.send(data + b"4\r\nbody\r\n")
                await stable.until(lambda: len(stable.heads) == len(stable.bodies) + 1)
                await client.send(b"1\r\n%d\r\n0\r\n\r\n" % i)
            else:
                await client.send(request(b"body%d" % i))
            status, head, data = await client.answer()
            assert (status, data, header(head, "x-mw-revision")) == (200, b"body%d" % i, "a")
            await mirror.until(lambda: len(mirror.bodies) == len(stable.bodies))
        assert mirror.bodies == stable.bodies
        await until(lambda: service.metrics.revision("b").answers == {200: 5})
        assert service.metrics.revision("a").answers == {200: 5}
        assert mirror.connections == 1  # its connection is kept
        # Too long for a copy.
        assert (await client.post(b"y" * 100_000))[0] == 200
        assert service.metrics.mirror_dropped == 1
        assert len(mirror.heads) == 5

    run(tmp_path, body)


async def dies(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await replica.read_head(reader)


async def mutters(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await replica.read_head(reader)
    writer.write(b"nonsense\r\n\r\n")
    await writer.drain()
    await reader.read()


async def fails(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while True:
        await replica.read_body(reader, await replica.read_head(reader))
        writer.write(b"HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nno!\r\n0\r\n\r\n")
        await writer.drain()


@pytest.mark.parametrize("handler", [dies, mutters, fails, Gate()])
def test_a_mirror_that_fails_or_is_slow_touches_nobody(tmp_path: Path, handler: Any) -> None:
    async def body(lab: Lab) -> None:
        stable, mirror = await lab.replica(), await lab.replica(handler)
        revisions(
            lab, ("a", stable), ("b", mirror), weights={"a": 100, "b": 0}, mirror={"revision": "b", "percent": 100},
            concurrency=2, keepalive=0.5,
        )  # fmt: skip
        service = lab.gateway.services[b"digits"]
        assert await shares(lab, 10) == {"a": 10}
        await mirror.until(lambda: len(mirror.heads) > 0)
        await until(lambda: service.metrics.revision("b").errors >= 1)
        await until(lambda: not service.copies)
        await mirror.stop()
        assert await shares(lab, 10) == {"a": 10}
        assert service.metrics.rejections == {}
        await until(lambda: service.admission.in_flight == 0)

    run(tmp_path, body)


@pytest.mark.parametrize("shared", [False, True])
def test_copies_take_nothing_of_the_limit_over_all_replicas(tmp_path: Path, shared: bool) -> None:
    async def body(lab: Lab) -> None:
        if shared:
            lab.gateway.hub = Hub(tmp_path / "gateways.shared")
        gate = Gate()
        stable, mirror = await lab.replica(), await lab.replica(gate)
        revisions(
            lab, ("a", stable), ("b", mirror), weights={"a": 100, "b": 0}, mirror={"revision": "b", "percent": 100},
            concurrency_limit=1, queue_size=0,
        )  # fmt: skip
        service = lab.gateway.services[b"digits"]
        assert await shares(lab, 10) == {"a": 10}
        await until(lambda: gate.inside == 4)  # all that the mirror's concurrency allows
        told = document(service, lab.gateway.now())
        assert (told["in_flight"], told["revisions"]["b"]["in_flight"]) == (0, 4)
        gate.open.set()
        await until(lambda: not service.copies)
        assert await shares(lab, 10) == {"a": 10}
        assert service.metrics.rejections == {}

    run(tmp_path, body)


def test_a_replica_that_hangs_gets_nothing_more_until_it_answers(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        gate = Gate()
        good, hanging = await lab.replica(), await lab.replica(gate)
        revisions(lab, ("a", good), ("a", hanging), hang_timeout=0.3)
        service = lab.gateway.services[b"digits"]
        clients = [await lab.client() for _ in range(2)]
        for client in clients:
            await client.send(request())
        await hanging.until(lambda: gate.inside >= 1)
        await until(lambda: service.hung == {"a-1"})
        seen = len(hanging.heads)
        assert await shares(lab, 20) == {"a": 20}
        assert len(hanging.heads) == seen
        gate.open.set()
        assert [(await client.answer())[0] for client in clients] == [200] * 2
        await until(lambda: not service.hung)
        await shares(lab, 20)
        assert len(hanging.heads) > seen

    run(tmp_path, body)


def test_who_speaks_or_waits_for_the_client_does_not_hang(tmp_path: Path) -> None:
    async def talks(replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await replica.read_head(reader)
        if b"/upload" in head.split()[1]:
            await replica.read_body(reader, head)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            writer.write(b"5\r\ndata\n\r\n")
            await writer.drain()
            await asyncio.sleep(0.05)
        writer.write(b"0\r\n\r\n")

    async def body(lab: Lab) -> None:
        one = await lab.replica(talks)
        revisions(lab, ("a", one), hang_timeout=0.3)
        service = lab.gateway.services[b"digits"]
        status, _, data = await (await lab.client()).post()
        assert (status, len(data)) == (200, 100)
        uploading = await lab.client()
        head = request(b"", path="/api/predict/digits/upload")
        await uploading.send(head.replace(b"Content-Length: 0", b"Transfer-Encoding: chunked"))
        await until(lambda: service.admission.in_flight == 1)
        for _ in range(3):
            await asyncio.sleep(0.2)
            await uploading.send(b"1\r\nx\r\n")
            assert not service.hung
        await uploading.send(b"0\r\n\r\n")
        assert (await uploading.answer())[0] == 200

    run(tmp_path, body, replace(QUICK, stall_timeout=5.0))


def test_a_service_without_answers_so_far_is_hung_when_it_breaks_its_own_word(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        gate = Gate()
        revisions(lab, ("a", await lab.replica(gate)), keepalive=600.0)
        (client,) = await posting(lab, 1)
        service = lab.gateway.services[b"digits"]
        (slot,) = service.admission.slots
        slot.heard -= 400.0
        service.sweep(lab.gateway.now(), 0.0)
        assert not service.hung
        slot.heard -= 100.0
        service.sweep(lab.gateway.now(), 200.0)  # it was us who slept
        assert not service.hung
        slot.heard -= 400.0
        service.sweep(lab.gateway.now(), 0.0)
        assert service.hung == {"a-0"}
        gate.open.set()
        assert (await client.answer())[0] == 200
        assert not service.hung
        # From here on it is known what is usual.
        gate.open.clear()
        await client.send(request())
        await until(lambda: gate.inside == 1)
        slot.heard -= 6.0
        service.sweep(lab.gateway.now(), 0.0)
        assert service.hung == {"a-0"}

    run(tmp_path, body)


def test_what_is_usual_is_known_after_a_restart(tmp_path: Path) -> None:
    files = tmp_path / "gateway"

    def remembering(one: Lab, name: str) -> Usual:
        return Usual(files, name, lambda: one.gateway.services.values())

    async def hangs_after(silence: float, usual: Callable[[Lab], Usual]) -> bool:
        async with lab(tmp_path) as one:
            revisions(one, ("a", await one.replica(Gate(), "gate.sock")), keepalive=600.0)
            usual(one).load()
            await posting(one, 1)
            service = one.gateway.services[b"digits"]
            (slot,) = service.admission.slots
            slot.heard -= silence
            service.sweep(one.gateway.now(), 0.0)
            return service.hung == {"a-0"}

    async def body(one: Lab) -> None:
        assert not await hangs_after(6.0, lambda other: remembering(other, "gateway"))
        revisions(one, ("a", await one.replica()))
        assert (await (await one.client()).post())[0] == 200
        before = remembering(one, "gateway")
        before.save()
        assert await hangs_after(6.0, lambda other: remembering(other, "gateway"))
        assert await hangs_after(6.0, lambda other: remembering(other, "gateway-2"))  # what another one has seen
        one.gateway.services[b"digits"].silence.note(3.0)
        before.save()
        assert not await hangs_after(11.0, lambda other: remembering(other, "gateway"))
        assert await hangs_after(13.0, lambda other: remembering(other, "gateway"))
        (file,) = files.iterdir()
        file.write_text("[1, 2")
        assert not await hangs_after(13.0, lambda other: remembering(other, "gateway"))

    run(tmp_path, body)


def test_replicas_that_are_replaced_in_vain_get_more_time(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        gate = Gate()
        replica = await lab.replica(gate)

        def place(number: int) -> None:
            found = [{"id": f"{number}", "address": f"unix:{replica.path}", "revision": "a"}]
            lab.route(replicas=found, keepalive=600.0)

        async def hangs_after(silence: float) -> bool:
            (client,) = await posting(lab, 1)
            service = lab.gateway.services[b"digits"]
            (slot,) = service.admission.slots
            slot.heard -= silence
            service.sweep(lab.gateway.now(), 0.0)
            client.close()
            await until(lambda: not slot.in_flight)
            found = bool(service.hung)
            slot.silent = 0.0
            return found

        place(0)
        service = lab.gateway.services[b"digits"]
        service.silence.note(0.01)
        for number in range(1, 3):
            assert not await hangs_after(3.0)
            assert await hangs_after(6.0)
            place(number)
        assert not await hangs_after(6.0)  # what was replaced twice may not hang, but compute
        assert await hangs_after(11.0)
        place(3)
        assert not await hangs_after(11.0)
        gate.open.set()
        assert (await (await lab.client()).post())[0] == 200
        gate.open.clear()
        service.sweep(lab.gateway.now(), 0.0)
        assert await hangs_after(6.0)

    run(tmp_path, body)


def test_one_that_is_fed_slowly_gets_one_at_first(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        gate = Gate()
        replica = await lab.replica(gate)
        found = [{"id": "a-0", "address": f"unix:{replica.path}", "revision": "a", "slow": True, "limit": 2}]
        lab.route(replicas=found, concurrency=4, queue_size=9)
        clients = await posting(lab, 6)
        await until(lambda: gate.inside == 1)
        assert lab.gateway.services[b"digits"].admission.queued == 5
        gate.open.set()
        assert [(await client.answer())[0] for client in clients] == [200] * 6
        assert gate.most <= 2

    run(tmp_path, body)


class Reports:
    """A follower of the control socket."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader

    async def next(self) -> dict[str, Any]:
        async with asyncio.timeout(5):
            found: dict[str, Any] = json.loads(await self._reader.readline())
            return found

    async def until(self, uid: str, **wanted: Any) -> Sample:
        """The next report of the service that says so."""
        while True:
            report = await self.next()
            found = report["services"].get(uid)
            if found is not None and all(found[name] == value for name, value in wanted.items()):
                return Sample.parse(report["at"], found)


@contextlib.asynccontextmanager
async def following(lab: Lab) -> AsyncIterator[Reports]:
    control = ControlSocket(lab.folder / "control.sock", lab.gateway, [])
    await control.start()
    reader, writer = await asyncio.open_unix_connection(str(lab.folder / "control.sock"))
    writer.write(b"traffic\n")
    try:
        yield Reports(reader)
    finally:
        writer.close()
        control.stop()


def test_the_traffic_is_reported_as_it_changes(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        good, bad = await lab.replica(), await lab.replica(fails)
        revisions(lab, ("a", good), ("b", bad), weights={"a": 50, "b": 50})
        async with following(lab) as reports:
            first = await reports.next()
            assert first["services"]["uid-digits"]["arrived"] == 0
            client = await lab.client()
            for _ in range(100):
                await client.post()
            await client.post(extra="")
            sample = await reports.until("uid-digits", arrived=100, rejected={"unauthorized": 1})
            assert {name: (r.answered, r.errors) for name, r in sample.revisions.items()} == {
                "a": (50, 0),
                "b": (50, 50),
            }
            assert all(sum(r.buckets) == r.answered for r in sample.revisions.values())
            assert (sample.in_flight, sample.queued, sample.rejected) == (0, 0, 1)
            assert (await reports.next())["services"] == {}  # nothing has changed
            another = await reports.next()
            assert another["source"] == first["source"]
            assert another["at"] > first["at"]

    run(tmp_path, body)


def test_a_service_that_is_no_more_is_told_of_once(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.route(await lab.replica())
        async with following(lab) as reports:
            assert "gone" not in await reports.next()
            lab.gateway.apply(EMPTY)
            while not (report := await reports.next()).get("gone"):
                assert report["services"] == {}
            assert report["gone"] == ["uid-digits"]
            assert "gone" not in await reports.next()

    run(tmp_path, body)


def test_who_waits_for_a_first_replica_is_reported_at_once(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        lab.route(state="idle")
        async with following(lab) as reports:
            await reports.next()
            client = await lab.client()
            await client.send(request())
            sample = await reports.until("uid-digits", queued=1)
            assert (sample.arrived, sample.in_flight) == (1, 0)

    run(tmp_path, body)


def test_a_hung_replica_is_reported_and_one_that_came_back_is_not(tmp_path: Path) -> None:
    async def body(lab: Lab) -> None:
        gate = Gate()
        revisions(lab, ("a", await lab.replica(gate)), hang_timeout=0.2)
        async with following(lab) as reports:
            await reports.next()
            (client,) = await posting(lab, 1)
            sample = await reports.until("uid-digits", hung=["a-0"])
            assert sample.in_flight == 1
            gate.open.set()
            assert (await client.answer())[0] == 200
            await reports.until("uid-digits", hung=[], in_flight=0)

    run(tmp_path, body)
