"""The embedded PostgreSQL on its real binaries."""

from __future__ import annotations

import psycopg


def test_a_database_of_ones_own(database_url: str) -> None:
    with psycopg.connect(database_url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE t (v vector(3))")
        connection.execute("INSERT INTO t VALUES ('[1,2,3]')")
        assert connection.execute("SELECT v <-> '[1,2,4]' FROM t").fetchone() == (1.0,)
