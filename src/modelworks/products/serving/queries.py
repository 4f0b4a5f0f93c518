"""Named SQL of serving: the published routes, tokens and revisions of services, each of all services of a pass at once.

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
from modelworks.kernel.resource import Ref, Resource

SERVICE = "Service"
TOKEN = "token"
_UNTIL = "until-"


def published_routes(connection: Connection, resources: Sequence[Resource]) -> dict[str, Mapping[str, Any]]:
    """uid → what the gateways were told of this very service."""
    services = {one.ref: one.uid for one in resources if one.ref.kind == SERVICE}
    # By the primary key, which is of names; the few that another workspace's service brings along are passed over.
    query = select(routes).where(
        routes.c.workspace.in_({ref.workspace for ref in services}), routes.c.name.in_({ref.name for ref in services})
    )
    rows = connection.execute(query)
    return {row.uid: row.route for row in rows if services.get(Ref(row.workspace, SERVICE, row.name)) == row.uid}


@dataclass(frozen=True)
class KnownToken:
    """One token of a service: when it ends, in Unix seconds (None: never), and itself sealed, in base64."""

    until: float | None = None
    sealed: str = ""


def known_tokens(connection: Connection, resources: Sequence[Resource]) -> dict[str, dict[str, KnownToken]]:
    """uid → SHA-256 of each token → the rest of what gateways need of it."""
    found: dict[str, dict[str, KnownToken]] = {}
    for secret in secrets.published(connection, _services(resources)):
        name = secret.name
        if name == TOKEN or name.startswith(_UNTIL):
            until = None if name == TOKEN else float(name.removeprefix(_UNTIL))
            known = KnownToken(until, base64.b64encode(secret.sealed).decode())
            found.setdefault(secret.uid, {})[secret.sha256] = known
    return found


def revision_numbers(connection: Connection, resources: Sequence[Resource]) -> dict[str, dict[str, int]]:
    """uid → revision → number, of the services among ``resources``."""
    return revisions.numbers(connection, _services(resources))


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


def _services(resources: Sequence[Resource]) -> list[str]:
    return [resource.uid for resource in resources if resource.ref.kind == SERVICE]
