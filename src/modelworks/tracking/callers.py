"""Who asks the tracking server: an API key of the platform, or a job by its token."""

from __future__ import annotations

import base64
import binascii
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine, select

from modelworks.api.auth import Keyring
from modelworks.cipher import Cipher
from modelworks.db.tables import resources as table
from modelworks.kernel.errors import Unauthorized
from modelworks.tracking import tokens

_BELIEVED_S = 3.0
_MOST_CACHED = 4096
_ENDED = ("Succeeded", "Failed", "Cancelled")
_REMEDY = "MLFLOW_TRACKING_TOKEN is an API key; in a browser the key is the password, under any user name"


@dataclass(frozen=True)
class JobRun:
    """A job as the tracking server knows it: its run has the job's uid."""

    uid: str
    name: str
    workspace: str
    experiment: str
    attempt: int


@dataclass(frozen=True)
class Caller:
    """``workspace`` None: every workspace."""

    name: str
    workspace: str | None
    read_only: bool = False
    job: JobRun | None = None


class Callers:
    """Finds out; what was found is believed for a few seconds. Its methods block."""

    def __init__(self, engine: Engine, cipher: Cipher, clock: Callable[[], float] = time.monotonic) -> None:
        self._engine, self._cipher, self._clock = engine, cipher, clock
        self._keyring = Keyring(engine, clock)
        self._jobs: dict[tokens.Claimed, tuple[JobRun, float]] = {}
        self._lock = threading.Lock()

    def find(self, authorization: str | None) -> Caller:
        """Raises Unauthorized, and Unavailable while the database is away."""
        text = credential(authorization)
        if text is None:
            raise Unauthorized("this needs an API key", remedy=_REMEDY)
        if text.startswith("mwj_"):
            claimed = tokens.claimed(self._cipher, text)
            if claimed is None:
                raise Unauthorized("the token is no job's", remedy=_REMEDY)
            job = self._job(claimed)
            return Caller(f"job:{job.uid}", job.workspace, job=job)
        principal = self._keyring.principal(text)
        return Caller(principal.name, principal.workspace, principal.read_only)

    def _job(self, claimed: tokens.Claimed) -> JobRun:
        now = self._clock()
        with self._lock:
            known = self._jobs.get(claimed)
        if known is not None and now < known[1]:
            return known[0]
        columns = (table.c.workspace, table.c.name, table.c.spec, table.c.status)
        with self._engine.connect() as connection:
            row = connection.execute(select(*columns).where(table.c.uid == claimed.uid)).one_or_none()
        if row is None or not is_current(row.status, claimed.attempt):
            raise Unauthorized(f"the token of attempt {claimed.attempt} has ended with it")
        experiment = str(row.spec.get("experiment") or row.name)
        found = JobRun(claimed.uid, row.name, row.workspace, experiment, claimed.attempt)
        with self._lock:
            if len(self._jobs) >= _MOST_CACHED:
                self._jobs.clear()
            self._jobs[claimed] = (found, now + _BELIEVED_S)
        return found


def is_current(status: Mapping[str, Any], attempt: int) -> bool:
    """Whether a job's attempt is its latest, and not over."""
    return status.get("attempt", 1) == attempt and status.get("phase") not in _ENDED


def credential(authorization: str | None) -> str | None:
    """The key in an ``Authorization`` header: of Bearer, or the password of Basic."""
    scheme, _, value = (authorization or "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return value.strip() or None
    if scheme.lower() != "basic":
        return None
    try:
        _, _, password = base64.b64decode(value.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return None
    return password or None
