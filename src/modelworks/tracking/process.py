"""The tracking server's process: MLflow's application on an inherited socket, until nobody has asked for a while."""

from __future__ import annotations

import asyncio
import importlib
import logging
import os
import socket
import time
from collections.abc import Callable
from typing import TypeVar

import uvicorn

from modelworks.cipher import Cipher
from modelworks.db import engine as database_engine
from modelworks.embedded.postgres import database_url
from modelworks.home import Home
from modelworks.kernel.errors import Forbidden, Invalid, SetupFailed, Unavailable
from modelworks.kernel.run import Access
from modelworks.objectstore import buckets, sts
from modelworks.objectstore.credentials import Credentials
from modelworks.settings import Settings
from modelworks.tracking import database
from modelworks.tracking.callers import Callers
from modelworks.tracking.door import Door

T = TypeVar("T")
BUCKET = "mw--tracking"
"""Not the name of any workspace's bucket: those begin with ``mw-`` and a letter or digit."""
_PATIENCE, _PAUSE = 60.0, 0.2
_BEFORE_EXPIRY = 1800.0
_CLOSE_EVERY, _LOOK_EVERY = 15.0, 1.0
log = logging.getLogger("modelworks.tracking")


def run(home: Home) -> None:
    """Serve until SIGTERM or SIGINT, or until it has rested. Raises SetupFailed when it cannot."""
    listening = _inherited(home)
    began = time.monotonic()
    settings = Settings.load(home)
    cipher = Cipher.load(home.secrets / "master.key", make=False)
    url = _patiently(lambda: database_url(home))
    own = _patiently(lambda: database.prepare(url, cipher, settings.tracking_database_url))
    credentials = _patiently(lambda: _store(home))
    _set_environment(own, credentials)
    platform = database_engine.connect(url, name="mw-tracking", pool_size=2, overflow=4)
    # Only now: what MLflow reads from the environment it reads when it is imported.
    importlib.import_module("modelworks.tracking.schema").upgrade(own)
    application = importlib.import_module("modelworks.tracking.application")
    inner, store = application.make(own)
    door = Door(inner, Callers(platform, cipher), store.ensure_workspace, store.ensure_run)
    log.info("MLflow answers after %.1f s", time.monotonic() - began)
    asyncio.run(_serve(door, listening, settings.tracking_idle, credentials, lambda: store.close_runs(platform)))


async def _serve(
    door: Door, listening: socket.socket, idle: float, credentials: Credentials, close_runs: Callable[[], None]
) -> None:
    config = uvicorn.Config(
        door, log_config=None, access_log=False, server_header=False, timeout_graceful_shutdown=10, loop="asyncio"
    )
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    close_at = 0.0
    while not serving.done():
        await asyncio.wait({serving}, timeout=_LOOK_EVERY)
        now = time.monotonic()
        if now >= close_at:
            close_at = now + _CLOSE_EVERY
            await asyncio.to_thread(_attempt, close_runs)
        expiring = credentials.expires_at is not None and time.time() > credentials.expires_at - _BEFORE_EXPIRY
        if expiring or (not door.busy and now - door.last_at > idle):
            server.should_exit = True
    await serving


def _attempt(work: Callable[[], None]) -> None:
    try:
        work()
    except Exception as error:  # the database is away: it is done the next time
        log.warning("runs of ended jobs cannot be closed now: %s", " ".join(str(error).split())[:200])


def _inherited(home: Home) -> socket.socket:
    """The socket that the supervisor listens at; alone, one of our own."""
    given = os.environ.pop("MW_LISTEN_FDS", "")
    if given:
        return socket.socket(fileno=int(given.split(",")[0]))
    home.tracking_socket.unlink(missing_ok=True)
    own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    own.bind(str(home.tracking_socket))
    own.listen(256)
    return own


def _patiently(work: Callable[[], T]) -> T:
    """The engines may be starting still. Raises SetupFailed when they have not after a minute."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            return work()
        except (Unavailable, FileNotFoundError) as error:
            if time.monotonic() > deadline:
                raise SetupFailed(f"MLflow cannot start: {error}", remedy="`mw status` shows the engines") from error
        time.sleep(_PAUSE)


def _store(home: Home) -> Credentials:
    """Keys for the bucket of artifacts alone, where the store can make them."""
    base = Credentials.load(home.secrets / "s3.json")
    buckets.create(base, BUCKET)
    try:
        return sts.mint(base, Access(write=(f"s3://{BUCKET}/",)), sts.LONGEST, "tracking")
    except (Forbidden, Invalid) as error:
        log.warning("the store makes no keys for one bucket, MLflow gets the platform's: %s", error)
        return base


def _set_environment(own: str, credentials: Credentials) -> None:
    os.environ.pop("AWS_SESSION_TOKEN", None)
    os.environ.update(credentials.variables())
    os.environ.update(
        {
            "MLFLOW_S3_ENDPOINT_URL": credentials.endpoint,
            "_MLFLOW_SERVER_FILE_STORE": own,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": f"s3://{BUCKET}",
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "MLFLOW_ENABLE_WORKSPACES": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            # Hosts and origins are the door's to check: it knows what the gateway is called.
            "MLFLOW_SERVER_ALLOWED_HOSTS": "*",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            "MLFLOW_SQLALCHEMYSTORE_POOL_SIZE": "5",
            "MLFLOW_SQLALCHEMYSTORE_POOL_RECYCLE": "1800",
        }
    )
    # What a user's shell says to MLflow's clients is not for the server.
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN", "MLFLOW_WORKSPACE", "MLFLOW_RUN_ID"):
        os.environ.pop(name, None)
