"""The resource that a request names."""

from __future__ import annotations

from difflib import get_close_matches

from sqlalchemy import Connection

from modelworks.db import resources
from modelworks.kernel.errors import NotFound
from modelworks.kernel.resource import DEFAULT_WORKSPACE, Ref, Resource

# Of the command line; the others are the kind's own name.
_NOUNS = {"TrainingJob": "job", "InstanceType": "instance-type"}


def named(connection: Connection, kind: str, workspace: str, name: str, *, lock: bool = False) -> Resource:
    """With ``lock`` nobody else writes its row before the transaction ends. Raises NotFound."""
    ref = Ref(workspace, kind, name)
    found = resources.lock(connection, ref) if lock else resources.get(connection, ref)
    if found is None:
        raise missing(connection, ref)
    return found


def missing(connection: Connection, ref: Ref) -> NotFound:
    """What is said of a name that nothing has: a name like it in the workspace, and where to look."""
    near = get_close_matches(ref.name, resources.names(connection, ref.kind, ref.workspace), n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]}?" if near else ""
    noun = _NOUNS.get(ref.kind, ref.kind.lower())
    where = "" if ref.workspace == DEFAULT_WORKSPACE else f" -w {ref.workspace}"
    return NotFound(
        f"there is no {ref.kind} {ref.name} in workspace {ref.workspace}{hint}",
        remedy=f"`mw {noun} list{where}` shows those there are",
    )
