"""Bringing a database to the schema of this version."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import text

from modelworks.db.engine import connect

# Any number that nothing else in the database locks: "mw" and "migr" in ASCII.
_MIGRATION_LOCK = 0x6D77_6D69_6772

# In a cluster restored from a dump, transaction numbers begin anew; events from before count as long settled.
_SETTLE_RESTORED_EVENTS = text(
    "UPDATE events SET xid = 0 WHERE xid >= pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
)


def migrate(url: str) -> None:
    """Run the missing migrations, under an advisory lock: several may call it at once, one works and the others wait.

    Raises Unavailable when the database cannot be reached.
    """
    engine = connect(url, name="modelworks-migrate", pool_size=1)
    try:
        with engine.connect() as connection:
            # Out of the pool, so that the end of this block ends the session and with it the lock, whatever happens.
            connection.detach()
            # Waiting for the other's migrations may take longer than an ordinary statement is allowed to.
            connection.execute(text("SET statement_timeout = 0"))
            connection.execute(text("SET lock_timeout = 0"))
            connection.execute(text("SELECT pg_advisory_lock(:key)"), {"key": _MIGRATION_LOCK})
            connection.commit()
            command.upgrade(_config(connection), "head")
            connection.execute(_SETTLE_RESTORED_EVENTS)
            connection.commit()
    finally:
        engine.dispose()


def _config(connection: object) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
