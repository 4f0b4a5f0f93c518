"""The migrated schema is what the tables say; migrating is safe at any time and from several processes."""

from __future__ import annotations

import subprocess
import sys

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from modelworks.db.engine import connect
from modelworks.db.migrate import migrate
from modelworks.db.schema import HEAD, is_current
from modelworks.db.tables import metadata
from modelworks.kernel.errors import SetupFailed, Unavailable


def test_the_schema_is_what_the_tables_say(database_url: str) -> None:
    migrate(database_url)
    options = {"compare_type": True, "compare_server_default": True}
    engine = connect(database_url)
    with engine.connect() as connection:
        differences = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    engine.dispose()
    # Alembic compares defaults by evaluating them, and a sequence never gives the same number twice.
    expected = ("modify_default", None, "resources", "version")
    assert [d for d in differences if not (isinstance(d, list) and d[0][:4] == expected)] == []


def test_twice_and_from_several_processes_at_once(database_url: str) -> None:
    code = "import sys; from modelworks.db.migrate import migrate; migrate(sys.argv[1])"
    processes = [subprocess.Popen([sys.executable, "-c", code, database_url]) for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    migrate(database_url)
    engine = connect(database_url)
    assert is_current(engine)
    engine.dispose()


def test_a_database_knows_its_version(database_url: str) -> None:
    engine = connect(database_url)
    assert not is_current(engine)
    migrate(database_url)
    assert is_current(engine)
    with engine.begin() as connection:
        assert connection.scalar(text("SELECT version_num FROM alembic_version")) == HEAD
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SetupFailed, match="9999"):
        is_current(engine)
    engine.dispose()


def test_events_of_a_restored_dump_are_readable(database_url: str) -> None:
    migrate(database_url)
    engine = connect(database_url)
    with engine.begin() as connection:
        columns = "xid, workspace, kind, name, uid, reason, message"
        connection.execute(text(f"INSERT INTO events ({columns}) VALUES (:x, '', '', '', '', '', '')"), {"x": 2**60})
    migrate(database_url)
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT xid FROM events")) == 0
    engine.dispose()


def test_no_database_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="cannot answer now"):
        migrate("postgresql+psycopg://nobody@/none?host=/nonexistent")
