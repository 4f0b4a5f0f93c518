"""Fixtures for everybody: the real engines, one of each a test process, started when the first test asks for it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from modelworks.embedded import postgres
from modelworks.home import Home
from sqlalchemy import make_url

from tests import engines


@pytest.fixture
def home() -> Iterator[Home]:
    """A fresh ``MW_HOME`` of this test's own, with a short path; gone afterwards."""
    with engines.temporary_home() as fresh:
        yield fresh


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The SQLAlchemy URL of an embedded PostgreSQL with an empty database ``modelworks`` that tests clone."""
    with engines.temporary_home() as home:
        launch = postgres.prepare(home)
        fast = ("-c", "fsync=off", "-c", "max_connections=200")
        with engines.running(launch, lambda: postgres.ready(home), home.root / "postgres.log", extra=fast):
            yield postgres.database_url(home)


@pytest.fixture
def database_url(postgres_server: str) -> Iterator[str]:
    """The SQLAlchemy URL of an empty database of this test's own (extension ``vector`` is there), dropped afterwards."""
    server = make_url(postgres_server)
    name = f"test_{secrets.token_hex(6)}"
    maintenance = server.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE modelworks")
    yield server.set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")
