"""The resource that a request names."""

from __future__ import annotations

from sqlalchemy import Connection

from modelworks.db import resources
from modelworks.kernel.errors import NotFound
from modelworks.kernel.resource import Ref, Resource

_NOUNS = {"TrainingJob": "job"}  # of the command line; the others are the kind's own name


def named(connection: Connection, kind: str, workspace: str, name: str, *, lock: bool = False) -> Resource:
    """With ``lock`` nobody else writes its row before the transaction ends. Raises NotFound."""
    ref = Ref(workspace, kind, name)
    found = resources.lock(connection, ref) if lock else resources.get(connection, ref)
    if found is None:
        noun = _NOUNS.get(kind, kind.lower())
        raise NotFound(
            f"there is no {kind} {name} in workspace {workspace}", remedy=f"`mw {noun} list` shows those there are"
        )
    return found
