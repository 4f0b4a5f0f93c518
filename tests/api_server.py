"""The real API over a real database, served on a Unix socket by a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI

from modelworks.api.app import create_app
from modelworks.control.context import Context
from modelworks.control.kinds import KINDS
from modelworks.db.engine import connect
from modelworks.db.listen import Listener
from modelworks.db.migrate import migrate
from modelworks.db.secrets import Cipher
from modelworks.home import Home
from modelworks.kernel.errors import Unavailable
from modelworks.objectstore.credentials import Credentials
from modelworks.settings import Settings


@dataclass(frozen=True)
class Api:
    """A served API, and the local user's client of it."""

    app: FastAPI
    context: Context
    socket: Path
    client: httpx.Client

    def with_key(self, key: str | None) -> httpx.Client:
        return _client(self.socket, key)

    def apply(self, *manifests: dict[str, Any], dry_run: bool = False) -> list[dict[str, Any]]:
        answer = self.client.post("/apply", json={"manifests": list(manifests), "dry_run": dry_run})
        assert answer.status_code == 200, answer.text
        results: list[dict[str, Any]] = answer.json()["results"]
        return results


@contextmanager
def serving(
    home: Home, database_url: str, store: Credentials | None = None, settings: Settings | None = None
) -> Iterator[Api]:
    """Migrate, serve, stop."""
    migrate(database_url)
    home.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    engine = connect(database_url)
    listener = Listener(database_url)
    listener.start()
    context = Context(
        engine=engine,
        home=home,
        settings=settings or Settings(home=str(home.root)),
        kinds=KINDS,
        runtimes={},
        cipher=Cipher.load(home.secrets / "master.key"),
        credentials=lambda: _given(store),
        listener=listener,
    )
    app = create_app(context)
    server = uvicorn.Server(
        uvicorn.Config(app, uds=str(home.controller_socket), log_config=None, timeout_graceful_shutdown=1, ws="none")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    client = _client(home.controller_socket, (home.secrets / "local.key").read_text().strip())
    try:
        _wait(client)
        yield Api(app, context, home.controller_socket, client)
    finally:
        client.close()
        server.should_exit = True
        thread.join(10)
        listener.stop()
        engine.dispose()


def _client(socket: Path, key: str | None) -> httpx.Client:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(
        transport=httpx.HTTPTransport(uds=str(socket)), base_url="http://api/api/v1", headers=headers, timeout=30
    )


def _given(store: Credentials | None) -> Credentials:
    if store is None:
        raise Unavailable("this test has no object store", retry_after=1.0)
    return store


def _wait(client: httpx.Client) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with suppress(httpx.TransportError):
            if client.get("/healthz").status_code == 200:
                return
        time.sleep(0.02)
    raise AssertionError("the API does not answer")
