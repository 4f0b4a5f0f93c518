"""API keys: who asks, and what that key may do.

A key is ``mw_`` and 256 random bits; only its SHA-256 is stored. A key that is bound to a workspace is refused
elsewhere, a read-only one may only read. What was looked up is believed for a few seconds: a revoked key ends at once
in the controller that revoked it, and within that time in others.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from sqlalchemy import Connection, Engine, func, select, update
from sqlalchemy.dialects.postgresql import insert

from modelworks.db.tables import api_keys as table
from modelworks.home import Home
from modelworks.kernel.errors import Conflict, Forbidden, NotFound, SetupFailed, Unauthorized
from modelworks.kernel.principal import Principal
from modelworks.kernel.resource import DEFAULT_WORKSPACE

LOCAL_KEY_NAME = "local"
_BELIEVED_S = 5.0
_MOST_CACHED = 1024
_KEY = re.compile(r"mw_[A-Za-z0-9_-]{43}")
_READING = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Key:
    """A key as it is listed: without its text."""

    name: str
    workspace: str | None
    read_only: bool
    created_at: datetime


class Keyring:
    """Looks up presented keys, and remembers the answers briefly."""

    def __init__(self, engine: Engine, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._clock = clock
        self._known: dict[str, tuple[Principal, float]] = {}
        self._lock = threading.Lock()

    def principal(self, text: str) -> Principal:
        """Whose key this is. Raises Unauthorized."""
        digest = sha256(text)
        now = self._clock()
        with self._lock:
            known = self._known.get(digest)
        if known is not None and now < known[1]:
            return known[0]
        with self._engine.connect() as connection:
            row = connection.execute(
                select(table.c.sha256, table.c.name, table.c.workspace, table.c.read_only).where(
                    table.c.sha256 == digest, table.c.revoked_at.is_(None)
                )
            ).one_or_none()
        if row is None or not hmac.compare_digest(row.sha256, digest):
            raise Unauthorized("the API key is not known", remedy="`mw login` stores another one")
        found = Principal(row.name, row.workspace, row.read_only)
        with self._lock:
            if len(self._known) >= _MOST_CACHED:
                self._known.clear()
            self._known[digest] = (found, now + _BELIEVED_S)
        return found

    def forget(self) -> None:
        """Look everything up anew, after a key was revoked."""
        with self._lock:
            self._known.clear()


_bearer = HTTPBearer(auto_error=False, scheme_name="apiKey", description="An API key: `Authorization: Bearer mw_…`.")


def authenticate(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)] = None
) -> None:
    """Before every route: sets ``request.state.principal``. Raises Unauthorized, Forbidden."""
    if given is None or not given.credentials:
        raise Unauthorized(
            "this needs an API key: `Authorization: Bearer <key>`",
            remedy="the key of this machine's user is in client.json below MW_HOME; elsewhere use `mw login`",
        )
    keyring: Keyring = request.app.state.keyring
    principal = keyring.principal(given.credentials)
    if principal.read_only and request.method not in _READING:
        raise Forbidden(f"the key {principal.name} may only read")
    workspace = request.query_params.get("workspace") or principal.workspace or DEFAULT_WORKSPACE
    check_workspace(principal, workspace)
    request.state.principal = principal


def check_workspace(principal: Principal, workspace: str) -> None:
    """Raises Forbidden for a key that is bound to another workspace."""
    if not principal.may_use(workspace):
        raise Forbidden(f"the key {principal.name} is for the workspace {principal.workspace}, not {workspace}")


def check_administrator(principal: Principal, what: str = "manage keys") -> None:
    """Raises Forbidden for keys that are bound to a workspace or may only read."""
    if not principal.administrator:
        raise Forbidden(f"the key {principal.name} may not {what}: it is bound to a workspace or may only read")


def make_key(connection: Connection, name: str, workspace: str | None, read_only: bool) -> tuple[Key, str]:
    """A new key and its text, which nobody can ask for again. Raises Conflict when the name is in use."""
    text = "mw_" + secrets.token_urlsafe(32)
    key = _store(connection, name, sha256(text), workspace, read_only, anew=table.c.revoked_at.is_not(None))
    if key is None:
        raise Conflict(f"there is a key {name} already", remedy=f"use another name, or `mw key revoke {name}` first")
    return key, text


def list_keys(connection: Connection) -> list[Key]:
    """Every key that is not revoked, by name."""
    rows = connection.execute(select(table).where(table.c.revoked_at.is_(None)).order_by(table.c.name))
    return [Key(row.name, row.workspace, row.read_only, row.created_at) for row in rows]


def revoke_key(connection: Connection, name: str) -> None:
    """Raises NotFound, and Conflict for the local user's key, which `mw` itself lives by."""
    if name == LOCAL_KEY_NAME:
        raise Conflict(
            "the local user's key cannot be revoked",
            remedy="to replace it, delete secrets/local.key below MW_HOME and start the platform again",
        )
    revoked = update(table).where(table.c.name == name, table.c.revoked_at.is_(None)).values(revoked_at=func.now())
    if connection.execute(revoked).rowcount == 0:
        raise NotFound(f"there is no key {name}")


def ensure_local_key(home: Home, engine: Engine) -> str:
    """The local user's key exists, in ``secrets/local.key`` (0600) and in the database; returns its text.

    Called whenever the controller starts: a new file replaces the key that was known before.
    """
    path = home.secrets / "local.key"
    if not path.exists():
        _write_once(path, "mw_" + secrets.token_urlsafe(32))
    text = path.read_text().strip()
    if not _KEY.fullmatch(text):
        raise SetupFailed(f"{path} holds no API key", remedy="delete the file, and start the platform again")
    with engine.begin() as connection:
        _store(connection, LOCAL_KEY_NAME, sha256(text), None, False, anew=table.c.sha256 != sha256(text))
    return text


def _store(
    connection: Connection, name: str, digest: str, workspace: str | None, read_only: bool, *, anew: Any
) -> Key | None:
    """Insert a key, or replace the one of that name when ``anew`` holds for it; None when it does not."""
    values = {"sha256": digest, "workspace": workspace, "read_only": read_only, "revoked_at": None}
    statement = insert(table).values(id=secrets.token_hex(8), name=name, **values)
    replaced = statement.on_conflict_do_update(
        index_elements=["name"], set_=values | {"created_at": func.now()}, where=anew
    )
    row = connection.execute(replaced.returning(table)).one_or_none()
    return Key(row.name, row.workspace, row.read_only, row.created_at) if row else None


def _write_once(path: Path, text: str) -> None:
    """Make a file of 0600 whole, or not at all; of two who make it at once, the first wins."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text + "\n")
            file.flush()
            os.fsync(file.fileno())
        # The other's file is as good as this one.
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink()


def sha256(text: str) -> str:
    """Hex digest under which a key is stored."""
    return hashlib.sha256(text.encode()).hexdigest()
