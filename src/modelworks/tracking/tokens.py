"""The tokens by which jobs reach the tracking server, and nothing else. Pure.

A token names its job and attempt and is signed with the home's master key, so none is stored: the server looks whether
that attempt is still the job's.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from modelworks.cipher import Cipher  # which takes a cryptographic library, and agents need none

MARK = "MLFLOW_RUN_ID"
"""The variable of a run that is to have a token: ``control.act`` gives it, the agent adds the server's address."""
VARIABLE = "MLFLOW_TRACKING_TOKEN"
ADDRESS = "MLFLOW_TRACKING_URI"
PATH = "/mlflow"
"""Where the gateway serves the tracking server."""
_TOKEN = re.compile(r"mwj_([0-9a-f]{16})\.([1-9][0-9]{0,5})\.([A-Za-z0-9_-]{43})")


@dataclass(frozen=True)
class Claimed:
    """Whose token it is."""

    uid: str
    attempt: int


def wanted(resolved: Mapping[str, Any], env: Mapping[str, str]) -> bool:
    """Whether a run with this environment gets a token: it is a tracked job's, and names no server or token itself.

    People set these variables too, in services as well, and a token is nothing for a server of theirs.
    """
    return bool(resolved.get("tracking")) and MARK in env and VARIABLE not in env and ADDRESS not in env


def token(cipher: Cipher, uid: str, attempt: int) -> str:
    """The token of one attempt of a job."""
    return f"mwj_{uid}.{attempt}.{_signature(cipher, uid, attempt)}"


def claimed(cipher: Cipher, text: str) -> Claimed | None:
    """What a token says, when it is one of ours."""
    found = _TOKEN.fullmatch(text)
    if found is None:
        return None
    uid, attempt = found[1], int(found[2])
    return Claimed(uid, attempt) if hmac.compare_digest(found[3], _signature(cipher, uid, attempt)) else None


def _signature(cipher: Cipher, uid: str, attempt: int) -> str:
    return base64.urlsafe_b64encode(cipher.derive(f"tracking/{uid}/{attempt}")).decode().rstrip("=")
