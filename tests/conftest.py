"""Fixtures for everybody: the real engines, one of each a test process, started when the first test asks for it."""

from __future__ import annotations

import secrets
from collections.abc import Iterator

import psycopg
import pytest
from sqlalchemy import make_url
from tests import engines

from modelworks.embedded import postgres, seaweedfs
from modelworks.home import Home
from modelworks.objectstore import buckets
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri


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
    """The SQLAlchemy URL of an empty database of this test's own (with ``vector``), dropped afterwards."""
    server = make_url(postgres_server)
    name = f"test_{secrets.token_hex(6)}"
    maintenance = server.set(drivername="postgresql", database="postgres").render_as_string(hide_password=False)
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE modelworks")
    yield server.set(database=name).render_as_string(hide_password=False)
    with psycopg.connect(maintenance, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def store_home() -> Iterator[Home]:
    """The home of a running embedded object store; ``secrets/s3.json`` and ``secrets/agent.json`` open it."""
    with engines.temporary_home() as home:
        launch = seaweedfs.prepare(home, port=0)
        with engines.running(launch, lambda: seaweedfs.ready(home), home.root / "weed.log"):
            yield home


@pytest.fixture(scope="session")
def store(store_home: Home) -> Credentials:
    """The controller's credentials at the embedded object store: they may do everything."""
    return Credentials.load(store_home.secrets / "s3.json")


@pytest.fixture(scope="session")
def agent_store(store_home: Home) -> Credentials:
    """The agent's credentials: objects, but no buckets; it may mint narrower ones."""
    return Credentials.load(store_home.secrets / "agent.json")


@pytest.fixture
def bucket(store: Credentials) -> Iterator[str]:
    """The name of an empty bucket of this test's own, removed with what is in it."""
    name = f"test-{secrets.token_hex(6)}"
    buckets.create(store, name)
    yield name
    ObjectClient(store).delete_prefix(ObjectUri(name))
    buckets.remove(store, name)
