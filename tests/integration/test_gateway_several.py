"""Several gateway processes on one port: limits and queues are of all of them, through kills and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from tests.gateway_lab import Client, Replica, document, request

from modelworks.home import Home

REPLICAS, LIMIT, QUEUE = 2, 3, 40


class Paced(Replica):
    """Answers when it is told to, or after ``pause`` seconds, and counts how many requests it has at once."""

    def __init__(self, path: Path, pause: float | None) -> None:
        super().__init__(path, self.serve)
        self.pause = pause
        self.go = asyncio.Event()
        self.now = self.most = 0

    async def serve(self, replica: Replica, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await self.read_head(reader)
            self.now += 1
            self.most = max(self.most, self.now)
            try:
                await self.read_body(reader, head)
                if self.pause is None:
                    await self.go.wait()
                else:
                    await asyncio.sleep(self.pause)
            finally:
                self.now -= 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


class Several:
    """Gateways that share the port; each client talks to the one that accepted it."""

    def __init__(self, home: Home, listening: socket.socket, replicas: list[Paced]) -> None:
        self.home, self.listening, self.replicas = home, listening, replicas
        self.count = 3
        self.gateways: dict[str, asyncio.subprocess.Process] = {}
        self.clients: list[Client] = []

    async def start(self, name: str) -> asyncio.subprocess.Process:
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "modelworks.main", "gateway", "--home", str(self.home.root),
            env={
                **os.environ,
                "MW_LISTEN_FDS": str(self.listening.fileno()),
                "MW_GATEWAY": name,
                "MW_GATEWAY_COUNT": str(self.count),
            },
            pass_fds=[self.listening.fileno()],
            stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        self.gateways[name] = child
        await self.until(lambda: self._is(name, child.pid))
        return child

    async def status(self, name: str) -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(str(self.home.run / f"{name}.sock"))
        writer.write(b"status\n")
        answer: dict[str, Any] = json.loads(await reader.read())
        writer.close()
        return answer

    async def client_of(self, name: str) -> Client:
        """A connection that this gateway has accepted: the others are stopped while it does."""
        others = [child for other, child in self.gateways.items() if other != name and child.returncode is None]
        for child in others:
            child.send_signal(signal.SIGSTOP)
        try:
            client = Client(*await asyncio.open_connection("127.0.0.1", self.listening.getsockname()[1]))
            self.clients.append(client)
            await client.send("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await client.answer())[0] == 200
        finally:
            for child in others:
                child.send_signal(signal.SIGCONT)
        return client

    async def until(self, condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(15):
            while not await condition():
                await asyncio.sleep(0.02)

    async def stop(self) -> None:
        for client in self.clients:
            client.close()
        for child in self.gateways.values():
            if child.returncode is None:
                child.send_signal(signal.SIGCONT)
                child.terminate()
        for child in self.gateways.values():
            await asyncio.wait_for(child.wait(), 20)

    async def _is(self, name: str, pid: int) -> bool:
        try:
            return bool((await self.status(name))["pid"] == pid)
        except (OSError, ValueError):
            return False


@contextlib.asynccontextmanager
async def several(home: Home, *names: str, pause: float | None = None, **changes: Any) -> AsyncIterator[Several]:
    home.run.mkdir(parents=True, exist_ok=True)
    replicas = [Paced(home.run / f"replica-{i}.sock", pause) for i in range(REPLICAS)]
    for replica in replicas:
        await replica.start()
    route = document(*(r.path for r in replicas), concurrency=LIMIT, queue_size=QUEUE, queue_timeout=20.0, **changes)
    home.gateway_snapshot.parent.mkdir(parents=True, exist_ok=True)
    home.gateway_snapshot.write_text(json.dumps({"routes": [route]}))
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listening:
        lab = Several(home, listening, replicas)
        try:
            for name in names:
                await lab.start(name)
            yield lab
        finally:
            for replica in replicas:
                replica.go.set()
            await lab.stop()
            for replica in replicas:
                await replica.stop()


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(90):
            await body()

    asyncio.run(main())


def test_limits_hold_under_load_and_nothing_is_lost(home: Home) -> None:
    async def body() -> None:
        async with several(home, "gateway", "gateway-2", "gateway-3", pause=0.002) as lab:
            clients = [await lab.client_of(name) for name in lab.gateways for _ in range(8)]
            answers: Counter[int] = Counter()

            async def call(client: Client) -> None:
                for _ in range(60):
                    answers[(await client.post())[0]] += 1

            await asyncio.gather(*map(call, clients))
            assert answers == {200: 24 * 60}
            assert [replica.most for replica in lab.replicas] == [LIMIT, LIMIT]
            assert len(home.gateway_sockets) == 3

    run(body)


def test_the_queue_is_of_all_and_the_slots_of_a_killed_one_come_back(home: Home) -> None:
    async def body() -> None:
        async with several(home, "gateway", "gateway-2") as lab:
            first = [await lab.client_of("gateway") for _ in range(REPLICAS * LIMIT + QUEUE // 2)]
            second = [await lab.client_of("gateway-2") for _ in range(QUEUE // 2 + 1)]

            async def seen(gateway: str) -> tuple[int, int]:
                service = (await lab.status(gateway))["services"]["digits"]
                return service["in_flight"], service["queued"]

            async def first_seen() -> bool:
                return await seen("gateway") == (REPLICAS * LIMIT, QUEUE // 2)

            async def second_seen() -> bool:
                return await seen("gateway-2") == (0, QUEUE // 2)

            for client in first:
                await client.send(request())
            await lab.until(first_seen)
            for client in second[:-1]:
                await client.send(request())
            await lab.until(second_seen)
            status, _, problem = await second[-1].post()
            assert (status, b"limit-exceeded" in problem) == (429, True)
            assert [replica.now for replica in lab.replicas] == [LIMIT, LIMIT]
            # Nobody of it is there any more: neither in the slots nor in the queue.
            lab.gateways["gateway"].kill()
            await lab.gateways["gateway"].wait()

            async def moved() -> bool:
                return await seen("gateway-2") == (REPLICAS * LIMIT, QUEUE // 2 - REPLICAS * LIMIT)

            await lab.until(moved)
            await second[-1].send(request())
            for replica in lab.replicas:
                replica.go.set()
            assert {(await client.answer())[0] for client in second} == {200}

    run(body)


def test_a_request_that_waits_at_one_gateway_is_not_starved_by_another(home: Home) -> None:
    async def body() -> None:
        async with several(home, "gateway", "gateway-2", pause=0.005) as lab:
            busy = [await lab.client_of("gateway") for _ in range(QUEUE)]
            stop = False

            async def call(client: Client) -> None:
                while not stop:
                    assert (await client.post())[0] == 200

            load = [asyncio.create_task(call(client)) for client in busy]
            one = await lab.client_of("gateway-2")
            for _ in range(20):
                served = len(lab.replicas[0].heads) + len(lab.replicas[1].heads)
                assert (await one.post())[0] == 200
                # In its turn: those that waited at the other one before it, and what was handed over meanwhile.
                assert len(lab.replicas[0].heads) + len(lab.replicas[1].heads) - served < 3 * QUEUE
            stop = True
            await asyncio.gather(*load)

    run(body)


def test_one_of_them_restarts_and_no_connection_is_lost(home: Home) -> None:
    async def body() -> None:
        async with several(home, "gateway", "gateway-2", pause=0.001) as lab:
            port, stop = lab.listening.getsockname()[1], False
            answers: Counter[int] = Counter()

            async def call() -> None:
                while not stop:
                    client = Client(*await asyncio.open_connection("127.0.0.1", port))
                    for _ in range(5):
                        status, head, _ = await client.post()
                        answers[status] += 1
                        if b"Connection: close" in head:
                            break
                    client.close()

            load = [asyncio.create_task(call()) for _ in range(8)]
            for _ in range(2):
                old = lab.gateways["gateway-2"]
                new = await lab.start("gateway-2")
                old.terminate()
                assert await asyncio.wait_for(old.wait(), 20) == 0
                assert (await lab.status("gateway-2"))["pid"] == new.pid
            stop = True
            await asyncio.gather(*load)
            assert set(answers) == {200}
            assert max(replica.most for replica in lab.replicas) <= LIMIT

    run(body)


def test_what_a_gateway_alone_has_still_at_replicas_counts_for_its_successor(home: Home) -> None:
    async def body() -> None:
        async with several(home, keepalive=60.0) as lab:
            lab.count = 1
            old = await lab.start("gateway")
            first = [await lab.client_of("gateway") for _ in range(REPLICAS * LIMIT)]
            for client in first:
                await client.send(request())
            await lab.replicas[0].until(lambda: lab.replicas[0].now == LIMIT)
            await lab.replicas[1].until(lambda: lab.replicas[1].now == LIMIT)
            standing_by, writer = await asyncio.open_unix_connection(str(home.gateway_socket))
            writer.write(b"stand-by\n")
            old.terminate()
            assert await standing_by.readline() == b"draining\n"
            await lab.start("gateway")
            second = await lab.client_of("gateway")
            await second.send(request())

            async def queued() -> bool:
                return bool((await lab.status("gateway"))["services"]["digits"]["queued"])

            await lab.until(queued)
            assert [replica.now for replica in lab.replicas] == [LIMIT, LIMIT]
            for replica in lab.replicas:
                replica.go.set()
            assert {(await client.answer())[0] for client in (*first, second)} == {200}
            assert max(replica.most for replica in lab.replicas) == LIMIT
            assert await asyncio.wait_for(old.wait(), 20) == 0

            async def free() -> bool:
                return not (await lab.status("gateway"))["services"]["digits"]["in_flight"]

            await lab.until(free)
            writer.close()

    run(body)


@pytest.mark.parametrize("limit", [{"concurrency_limit": 2}, {"rate_limit": 5.0}])
def test_limits_of_the_service_are_of_all(home: Home, limit: dict[str, Any]) -> None:
    async def body() -> None:
        async with several(home, "gateway", "gateway-2", pause=0.002, **limit) as lab:
            clients = [await lab.client_of(name) for name in lab.gateways for _ in range(5)]
            answers = await asyncio.gather(*(client.post() for client in clients))
            if "rate_limit" in limit:
                assert 5 <= Counter(status for status, _, _ in answers)[200] < 10
            else:
                assert {status for status, _, _ in answers} == {200}
                assert sum(replica.most for replica in lab.replicas) <= 4
                assert max(replica.most for replica in lab.replicas) <= 2

    run(body)
