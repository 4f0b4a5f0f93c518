"""Secrets of resources: encrypted at rest with the home's master key, compared by their SHA-256."""

from __future__ import annotations

import hashlib
import secrets as random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.postgresql import insert

from modelworks.cipher import KEY_BYTES, labelled
from modelworks.cipher import Cipher as Cipher
from modelworks.db.tables import secrets
from modelworks.kernel.errors import NotFound


def put(connection: Connection, cipher: Cipher, uid: str, name: str, text: str) -> None:
    """Store or replace a secret."""
    row = {"ciphertext": cipher.seal(text, uid, name), "sha256": digest(text)}
    statement = insert(secrets).values(uid=uid, name=name, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["uid", "name"], set_=row))


def ensure(connection: Connection, cipher: Cipher, uid: str, name: str) -> None:
    """A random secret exists; one that is there is left as it is."""
    text = random.token_urlsafe(KEY_BYTES)
    row = {"uid": uid, "name": name, "ciphertext": cipher.seal(text, uid, name), "sha256": digest(text)}
    connection.execute(insert(secrets).values(row).on_conflict_do_nothing())


def get(connection: Connection, cipher: Cipher, uid: str, name: str) -> str:
    """The text of a secret; raises NotFound."""
    sealed = connection.scalar(select(secrets.c.ciphertext).where(secrets.c.uid == uid, secrets.c.name == name))
    if sealed is None:
        raise NotFound(f"no secret {name} of {uid}")
    return cipher.open(sealed, uid, name)


def rotate(connection: Connection, cipher: Cipher, uid: str, name: str) -> str:
    """Replace a secret by a new random one, which is returned; the old one is worth nothing from the commit on."""
    text = random.token_urlsafe(KEY_BYTES)
    put(connection, cipher, uid, name, text)
    return text


def digests(connection: Connection, uid: str) -> Mapping[str, str]:
    """Secret name → SHA-256 in hex of every secret of a resource."""
    rows = connection.execute(select(secrets.c.name, secrets.c.sha256).where(secrets.c.uid == uid))
    return {row.name: row.sha256 for row in rows}


@dataclass(frozen=True, slots=True)
class Published:
    """One secret as a route carries it: its SHA-256 in hex, and ``sealed``, which ``cipher.open_labelled`` opens."""

    uid: str
    name: str
    sha256: str
    sealed: bytes


def published(connection: Connection, uids: Sequence[str]) -> list[Published]:
    """Every secret of these resources, by uid and name."""
    rows = connection.execute(select(secrets).where(secrets.c.uid.in_(uids)).order_by(secrets.c.uid, secrets.c.name))
    return [Published(row.uid, row.name, row.sha256, labelled(row.name, row.ciphertext)) for row in rows]


def remove(connection: Connection, uid: str, name: str | None = None) -> None:
    """Drop one secret of a resource, or all of them."""
    statement = delete(secrets).where(secrets.c.uid == uid)
    connection.execute(statement if name is None else statement.where(secrets.c.name == name))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
