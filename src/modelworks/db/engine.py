"""The door to PostgreSQL. What means "the database cannot answer now" becomes Unavailable here, and nowhere else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson
import psycopg
from sqlalchemy import Connection, Engine, ExceptionContext, PoolProxiedConnection, QueuePool, create_engine, event
from sqlalchemy.exc import InvalidatePoolError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.pool import ConnectionPoolEntry

from modelworks.kernel.errors import Unavailable

# Nothing the platform asks is worth more than this; a runaway statement may not hold its locks for ever.
_OPTIONS = "-c statement_timeout=30s -c lock_timeout=10s -c idle_in_transaction_session_timeout=60s"
_RETRY_AFTER = 1.0
_TRUSTED = 1.0
"""Seconds for which a connection that answered is believed to live; one that lay longer is asked before it is used."""


def connect(url: str, *, name: str = "modelworks", pool_size: int = 4, overflow: int = 12) -> Engine:
    """An engine for an SQLAlchemy URL (``postgresql+psycopg://…``). Connects when it is first used.

    Every call on it may raise :class:`Unavailable`: the server is away, starting, overloaded, or gave up a statement.
    """
    engine = create_engine(
        url,
        poolclass=_Pool,
        pool_size=pool_size,
        max_overflow=overflow,
        pool_timeout=10,
        pool_recycle=1800,
        json_serializer=_dump_json,
        json_deserializer=orjson.loads,
        connect_args={"application_name": name, "connect_timeout": 5, "options": _OPTIONS},
    )
    event.listen(engine, "handle_error", _to_unavailable)
    event.listen(engine, "checkin", _note_use)
    event.listen(engine, "checkout", _ask_idle)
    return engine


@contextmanager
def single(engine: Engine) -> Iterator[Connection]:
    """A connection on which each statement is a transaction of its own: two words less to the database."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        yield connection


class _Pool(QueuePool):
    """A pool whose exhaustion is Unavailable, as every other way of not reaching the database is."""

    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except PoolTimeout as error:
            raise Unavailable("all connections to the database are busy", retry_after=_RETRY_AFTER) from error


def _note_use(_connection: object, record: ConnectionPoolEntry) -> None:
    record.info["used"] = time.monotonic()


def _ask_idle(connection: psycopg.Connection[Any], record: ConnectionPoolEntry, _proxy: object) -> None:
    """As the pool's own ping, which asks every time: a tenth of all that the controller says to the database.

    Of a server that restarted, the pool replaces all connections.
    """
    used = record.info.get("used")  # None of a new one
    if used is None or time.monotonic() - used < _TRUSTED:
        return
    try:
        connection.autocommit = True
        connection.execute("")
        connection.autocommit = False
    except psycopg.Error as error:
        raise InvalidatePoolError(str(error)) from error


def _to_unavailable(context: ExceptionContext) -> None:
    error = context.original_exception
    if context.is_disconnect or isinstance(error, psycopg.OperationalError):
        detail = " ".join(str(error).split()) or type(error).__name__
        raise Unavailable(
            f"the database cannot answer now: {detail}",
            remedy="`mw status` shows whether PostgreSQL runs; its log is logs/postgres.log",
            retry_after=_RETRY_AFTER,
        ) from error


def _dump_json(value: Any) -> str:
    text = orjson.dumps(value).decode()
    # jsonb holds no NUL; a workload's log lines, quoted in a status, may.
    return orjson.dumps(_without_nul(value)).decode() if "\\u0000" in text else text


def _without_nul(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\0", "\N{REPLACEMENT CHARACTER}")
        case dict():
            return {_without_nul(key): _without_nul(item) for key, item in value.items()}
        case list() | tuple():
            return [_without_nul(item) for item in value]
        case _:
            return value
