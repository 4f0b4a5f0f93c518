"""Runs of resources that are no more, on a node that was away when they were deleted: stopped, and then forgotten."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

from sqlalchemy import Connection, Engine, select

from modelworks.db.tables import resources
from modelworks.kernel.errors import ModelworksError
from modelworks.kernel.run import RunObservation
from modelworks.runtime.base import Runtime

_GRACE = 5.0
_log = logging.getLogger(__name__)


def sweep(engine: Engine, runtime: Runtime, runs: Sequence[RunObservation]) -> bool:
    """Tidy a node up, of which these are all runs; True while some have still to end.

    A resource's row is there before its first run and until its last is forgotten: who asks afterwards, and finds none,
    may trust that. Nothing is touched while the database is away.
    """
    held = {run.key.partition("/")[0] for run in runs}
    if not held:
        return False
    try:
        with engine.connect() as connection:
            strays = held - _existing(connection, held)
    except ModelworksError as error:
        _log.warning("strays.not_looked_for", extra={"error": error.detail})
        return False
    living = False
    for run in runs:
        if run.key.partition("/")[0] not in strays:
            continue
        if run.phase.ended:
            runtime.forget(run.key)
        else:
            living = True
            runtime.stop(run.key, _GRACE, "Superseded")
    return living


def _existing(connection: Connection, uids: Iterable[str]) -> set[str]:
    return set(connection.scalars(select(resources.c.uid).where(resources.c.uid.in_(list(uids)))))
