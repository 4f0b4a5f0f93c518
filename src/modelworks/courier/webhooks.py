"""Results posted to where their submitters asked: again with back-off until somebody says 2xx, signed."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import importlib
import logging
import ssl
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from modelworks.courier import addresses, caller
from modelworks.courier.counters import Counters
from modelworks.courier.database import Away, Link
from modelworks.courier.outcome import Answer, Broken
from modelworks.courier.service import Service
from modelworks.db import tasks as sql
from modelworks.home import Home
from modelworks.kernel.errors import ModelworksError

# At once; and of one service, whose receivers may all be slow, while those of the others are not.
_MOST, _MOST_EACH = 32, 8
_LOOK = 1.0
_SILENCE = 15.0
_LONGEST = 45.0  # seconds of one call: shorter than a notice is hidden from the others
_FIRST_DELAY, _LONGEST_DELAY = 1.0, 600.0
_MOST_TRIES = 15  # a little over two hours
log = logging.getLogger("modelworks.courier.webhooks")


class Webhooks:
    """Several couriers share the work: each notice is hidden from the others while one has it."""

    def __init__(
        self, home: Home, link: Link, services: Mapping[str, Service], counters: Callable[[str], Counters]
    ) -> None:
        self._home, self._link, self._services, self._counters = home, link, services, counters
        self._wake = asyncio.Event()
        self._busy: Counter[str] = Counter()  # calls under way by service

    def tell(self) -> None:
        """There may be one that is due."""
        self._wake.set()

    async def run(self) -> None:
        """Claim what is due and call, until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK if self._services else None):
                        await self._wake.wait()
                self._wake.clear()
                room = min(_MOST - self._busy.total(), _MOST_EACH)
                if not self._services or room <= 0:
                    continue  # nothing is asked of the database where nobody uses this
                full = [uid for uid, count in self._busy.items() if count >= _MOST_EACH]
                with contextlib.suppress(Away):
                    for row in await self._link.run(lambda link, room=room, full=full: _claim(link, room, full)):  # type: ignore[misc]
                        self._busy[row[1]] += 1
                        self._wake.set()  # there may be more
                        group.create_task(self._call(*row))

    async def _call(self, id: str, uid: str, *of: Any) -> None:
        try:
            await self._deliver(id, uid, *of)
        finally:
            self._busy[uid] -= 1
            self._busy += Counter()  # without those at zero
            self._wake.set()

    async def _deliver(
        self, id: str, uid: str, url: str, tries: int, status: int, answer: Any, result: bytes | None
    ) -> None:
        service = self._services.get(uid)
        if service is None:
            return  # it is being deleted, and its tasks go with it
        found: Answer | Broken
        try:
            async with asyncio.timeout(_LONGEST):
                found = await self._post(service, id, url, status, dict(answer or ()), bytes(result or b""))
        except (OSError, ValueError, ModelworksError) as error:  # the last: a token that cannot be opened
            found = Broken(str(error) or type(error).__name__, sent=False)
        good = isinstance(found, Answer) and 200 <= found.status < 300
        over = good or tries >= _MOST_TRIES or (isinstance(found, Answer) and found.status == 410)
        counters = self._counters(uid)
        counters.told += good
        if over and not good:
            counters.untold += 1
            log.warning("a webhook is given up", extra={"task": id, "url": url, "found": _said(found)})
        pause = None if over else min(_FIRST_DELAY * 2.0 ** (tries - 1), _LONGEST_DELAY)
        terms = {"id": id, "delay": pause}
        await self._link.insist(lambda connection: connection.execute(sql.SETTLE_NOTICE, terms))

    async def _post(
        self, service: Service, id: str, url: str, status: int, headers: dict[str, str], body: bytes
    ) -> Answer | Broken:
        """Raises OSError when nobody is there, or may not be called; SetupFailed without a key for the signature."""
        parts = urlsplit(url)
        host, secure = parts.hostname or "", parts.scheme == "https"
        port = parts.port or (443 if secure else 80)
        address = await _address(host, port)
        exchange = await caller.connect(
            (address, port), tls=ssl.create_default_context() if secure else None, name=host if secure else None
        )
        at = int(time.time())
        sent = [
            ("Content-Type", headers.get("content-type", "application/octet-stream")),
            ("User-Agent", "modelworks"),
            ("X-Eas-Queueservice-Request-Id", id),
            ("X-Mw-Service", service.route.service),
            ("X-Mw-Task-Id", id),
            ("X-Mw-Task-Status", str(status)),
            ("X-Mw-Signature", f"t={at},v1={signature(self._token(service), at, id, status, body)}"),
            ("Connection", "close"),
        ]
        try:
            data = caller.request("POST", addresses.path_of(parts), parts.netloc, sent, body)
            return await exchange.ask(data, silence=_SILENCE, head_only=True)  # what it says besides is nobody's
        finally:
            exchange.close()

    def _token(self, service: Service) -> str:
        """The service's token, which the receiver knows too. Loaded when it is needed: most platforms never do."""
        cipher = importlib.import_module("modelworks.cipher")
        key = cipher.Cipher.load(self._home.secrets / "master.key", make=False)
        for sealed in service.route.sealed:
            if sealed.partition(b"\0")[0] == b"token":
                return str(cipher.open_labelled(key, sealed, service.uid))
        raise ValueError("the token of the service is not in its route")


def signature(token: str, at: int, id: str, status: int, body: bytes) -> str:
    """HMAC-SHA256 in hex, with the service's token, over ``<at>.<id>.<status>.<body>``; ``at`` in Unix seconds."""
    return hmac.new(token.encode(), f"{at}.{id}.{status}.".encode() + body, hashlib.sha256).hexdigest()


async def _address(host: str, port: int) -> str:
    """The address that is called is the one that was judged: a name may lead elsewhere the next time."""
    loop = asyncio.get_running_loop()
    allowed = addresses.allowed_hosts()
    for *_, found in await loop.getaddrinfo(host, port, type=1):
        if addresses.may_be_called(host, str(found[0]), allowed):
            return str(found[0])
    raise OSError(addresses.refusal(host))


async def _claim(connection: Any, most: int, full: list[str]) -> list[tuple[Any, ...]]:
    return list(await (await connection.execute(sql.CLAIM_NOTICES, {"limit": most, "full": full})).fetchall())


def _said(found: Answer | Broken) -> str:
    return found.reason if isinstance(found, Broken) else f"status {found.status}"
