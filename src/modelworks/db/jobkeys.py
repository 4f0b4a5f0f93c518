"""The API keys of jobs that ask for credentials: bound to the job's workspace, and gone with the job.

A key's text follows from the home's master key, so that a start that is repeated after a crash hands out the same one
and none is stored. Its name cannot be that of a key which somebody made.
"""

from __future__ import annotations

import base64
import secrets

from sqlalchemy import Connection, delete, func
from sqlalchemy.dialects.postgresql import insert

from modelworks.db.secrets import Cipher, digest
from modelworks.db.tables import api_keys as table


def key_text(cipher: Cipher, uid: str, epoch: str) -> str:
    """The key of one attempt of a job. ``epoch`` names the attempt."""
    derived = cipher.derive(f"job-key/{uid}/{epoch}")
    return "mw_" + base64.urlsafe_b64encode(derived).decode().rstrip("=")


def ensure(connection: Connection, cipher: Cipher, uid: str, epoch: str, workspace: str) -> None:
    """The key of this attempt opens the workspace; that of an earlier one opens nothing any more."""
    values = {"sha256": digest(key_text(cipher, uid, epoch)), "workspace": workspace, "read_only": False}
    statement = insert(table).values(id=secrets.token_hex(8), name=_name(uid), **values)
    statement = statement.on_conflict_do_update(
        index_elements=["name"],
        set_=values | {"created_at": func.now()},
        where=table.c.sha256 != statement.excluded.sha256,
    )
    connection.execute(statement)


def remove(connection: Connection, uid: str) -> None:
    """The job's key, if it has one, opens nothing any more."""
    connection.execute(delete(table).where(table.c.name == _name(uid)))


def _name(uid: str) -> str:
    return f"job:{uid}"  # names that people give hold no colon
