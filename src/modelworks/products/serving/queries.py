"""Named SQL of serving: the published route, and the tokens of a service.

The token is the secret ``token``. After a rotation that keeps it for a while, the old one is ``until-<Unix seconds>``.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select

from modelworks.db import revisions, secrets
from modelworks.db.secrets import Cipher
from modelworks.db.tables import routes
from modelworks.kernel.resource import Resource

TOKEN = "token"
_UNTIL = "until-"


def published_route(connection: Connection, workspace: str, name: str, uid: str) -> Mapping[str, Any] | None:
    """What the gateways were told of this very service."""
    query = select(routes.c.route).where(routes.c.workspace == workspace, routes.c.name == name, routes.c.uid == uid)
    return connection.scalar(query)


@dataclass(frozen=True)
class KnownToken:
    """One token of a service: when it ends, in Unix seconds (None: never), and itself sealed, in base64."""

    until: float | None = None
    sealed: str = ""


def known_tokens(connection: Connection, uid: str) -> dict[str, KnownToken]:
    """SHA-256 of each token → the rest of what gateways need of it."""
    digests = secrets.digests(connection, uid)
    sealed = secrets.sealed(connection, uid)
    return {
        digest: KnownToken(
            None if name == TOKEN else float(name.removeprefix(_UNTIL)),
            base64.b64encode(sealed[name]).decode() if name in sealed else "",
        )
        for name, digest in digests.items()
        if name == TOKEN or name.startswith(_UNTIL)
    }


def revision_numbers(connection: Connection, resources: Sequence[Resource]) -> dict[str, dict[str, int]]:
    """uid → revision → number, of the services among ``resources``."""
    uids = [resource.uid for resource in resources if resource.ref.kind == "Service"]
    return revisions.numbers(connection, uids) if uids else {}


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
