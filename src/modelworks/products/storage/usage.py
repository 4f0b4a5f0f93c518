"""Measuring what lies in the buckets: a periodic task of the controller."""

from __future__ import annotations

import structlog

from modelworks.db import resources
from modelworks.kernel.errors import ModelworksError
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.uri import ObjectUri
from modelworks.products.context import Context
from modelworks.products.storage import queries

MEASURE_EVERY_S = 300.0

_log = structlog.get_logger(__name__)


def measure(context: Context) -> None:
    """Count every bucket's bytes; a bucket whose number changed is reconciled, which meters it.

    A bucket that cannot be listed now is counted the next time.
    """
    with context.engine.connect() as connection:
        buckets = queries.all_buckets(connection)
    client = ObjectClient(context.credentials)
    for uid, name in buckets:
        try:
            size = objects = 0
            for found in client.list(ObjectUri(name, "")):
                size, objects = size + found.size, objects + 1
        except ModelworksError as error:
            _log.warning("bucket.not_measured", bucket=name, error=str(error))
            continue
        with context.engine.begin() as connection:
            if queries.put_usage(connection, uid, size, objects):
                resources.wake(connection, [uid])
