"""The home's master key. Neutral: used by the database's secrets, and by the gateway, which opens services' tokens.

A sealed token in a route is its secret's name, a NUL, and its ciphertext: a ciphertext opens only under its name.
"""

from __future__ import annotations

import hmac
import os
import secrets
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from modelworks.kernel.errors import SetupFailed

KEY_BYTES = 32
_NONCE_BYTES = 12


class Cipher:
    """AES-256-GCM. A ciphertext is bound to the resource and name it was made for: it opens nowhere else."""

    def __init__(self, key: bytes) -> None:
        self._aead = AESGCM(key)
        self._key = key

    @classmethod
    def load(cls, path: Path, *, make: bool = True) -> Cipher:
        """Read the master key, made at the first call (0600) unless told not to.

        Raises SetupFailed for a file that is not a key, FileNotFoundError for none.
        """
        if make and not path.exists():
            _make_key(path)
        key = path.read_bytes()
        if len(key) != KEY_BYTES:
            raise SetupFailed(
                f"{path} is not a master key: it holds {len(key)} bytes instead of {KEY_BYTES}",
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


def labelled(name: str, ciphertext: bytes) -> bytes:
    """One sealed token of a route: the ciphertext of the secret ``name`` of the service."""
    return name.encode() + b"\0" + ciphertext


def open_labelled(cipher: Cipher, sealed: bytes, uid: str) -> str:
    """The text of a ``labelled`` secret of the resource ``uid``. Raises SetupFailed for another key's."""
    name, _, ciphertext = sealed.partition(b"\0")
    return cipher.open(ciphertext, uid, name.decode("utf-8", "replace"))


def _make_key(path: Path) -> None:
    """Write a new key by link, so that of two processes that start at once only one makes it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(os.urandom(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return  # the other process was first; its key is the key
    finally:
        temporary.unlink()
