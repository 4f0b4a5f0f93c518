"""Secrets of resources: encrypted at rest with the home's master key, compared by their SHA-256."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets as random
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.postgresql import insert

from modelworks.db.tables import secrets
from modelworks.kernel.errors import NotFound, SetupFailed

_KEY_BYTES = 32
_NONCE_BYTES = 12


class Cipher:
    """AES-256-GCM. A ciphertext is bound to the resource and name it was made for: it opens nowhere else."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._key = key

    @classmethod
    def load(cls, path: Path) -> Cipher:
        """Read the master key, made at the first call (0600). Raises SetupFailed for a file that is not a key."""
        if not path.exists():
            _make_key(path)
        key = path.read_bytes()
        if len(key) != _KEY_BYTES:
            raise SetupFailed(
                f"{path} is not a master key: it holds {len(key)} bytes instead of {_KEY_BYTES}",
                remedy="restore it from a backup; without it the stored tokens cannot be read",
            )
        return cls(key)

    def derive(self, label: str) -> bytes:
        """32 bytes that follow from the master key and the label, and that nobody without it can tell."""
        return hmac.digest(self._key, label.encode(), "sha256")

    def seal(self, text: str, uid: str, name: str) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, text.encode(), f"{uid}/{name}".encode())

    def open(self, sealed: bytes, uid: str, name: str) -> str:
        try:
            plain = self._aead.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], f"{uid}/{name}".encode())
        except InvalidTag:
            raise SetupFailed(
                f"the secret {name} of {uid} was encrypted with another master key",
                remedy="restore secrets/master.key of the platform that made it, or rotate the secret",
            ) from None
        return plain.decode()


def put(connection: Connection, cipher: Cipher, uid: str, name: str, text: str) -> None:
    """Store or replace a secret."""
    row = {"ciphertext": cipher.seal(text, uid, name), "sha256": digest(text)}
    statement = insert(secrets).values(uid=uid, name=name, **row)
    connection.execute(statement.on_conflict_do_update(index_elements=["uid", "name"], set_=row))


def ensure(connection: Connection, cipher: Cipher, uid: str, name: str) -> None:
    """A random secret exists; one that is there is left as it is."""
    text = random.token_urlsafe(_KEY_BYTES)
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
    text = random.token_urlsafe(_KEY_BYTES)
    put(connection, cipher, uid, name, text)
    return text


def digests(connection: Connection, uid: str) -> Mapping[str, str]:
    """Secret name → SHA-256 in hex of every secret of a resource."""
    rows = connection.execute(select(secrets.c.name, secrets.c.sha256).where(secrets.c.uid == uid))
    return {row.name: row.sha256 for row in rows}


def remove(connection: Connection, uid: str, name: str | None = None) -> None:
    """Drop one secret of a resource, or all of them."""
    statement = delete(secrets).where(secrets.c.uid == uid)
    connection.execute(statement if name is None else statement.where(secrets.c.name == name))


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _make_key(path: Path) -> None:
    """Write a new key by link, so that of two processes that start at once only one makes it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{random.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(_KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return  # the other process was first; its key is the key
    finally:
        temporary.unlink()
