"""Named SQL of serving: the published route, and the tokens of a service.

The token is the secret ``token``. After a rotation that keeps it for a while, the old one is ``until-<Unix seconds>``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, select

from modelworks.db import secrets
from modelworks.db.secrets import Cipher
from modelworks.db.tables import routes

TOKEN = "token"
_UNTIL = "until-"


def published_route(connection: Connection, workspace: str, name: str, uid: str) -> Mapping[str, Any] | None:
    """What the gateways were told of this very service."""
    query = select(routes.c.route).where(routes.c.workspace == workspace, routes.c.name == name, routes.c.uid == uid)
    return connection.scalar(query)


def token_digests(connection: Connection, uid: str) -> dict[str, float | None]:
    """SHA-256 of each token → when it ends, in Unix seconds (None: never)."""
    found = secrets.digests(connection, uid)
    return {
        digest: None if name == TOKEN else float(name.removeprefix(_UNTIL))
        for name, digest in found.items()
        if name == TOKEN or name.startswith(_UNTIL)
    }


def rotate_token(connection: Connection, cipher: Cipher, uid: str, *, now: float, keep_until: int | None = None) -> str:
    """A new token, which is returned; the old one is worth nothing from the commit on, or from ``keep_until``."""
    for name in secrets.digests(connection, uid):
        # A rotation at once is an answer to a leak: tokens that were kept for a while end with it.
        if name.startswith(_UNTIL) and (keep_until is None or float(name.removeprefix(_UNTIL)) <= now):
            secrets.remove(connection, uid, name)
    if keep_until is not None:
        old = secrets.get(connection, cipher, uid, TOKEN)
        secrets.put(connection, cipher, uid, f"{_UNTIL}{keep_until}", old)
    return secrets.rotate(connection, cipher, uid, TOKEN)
