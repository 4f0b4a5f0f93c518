"""MLflow's own database beside the platform's, with a role that sees nothing else."""

from __future__ import annotations

import base64

import psycopg
from psycopg import sql
from sqlalchemy import URL, make_url

from modelworks.cipher import Cipher
from modelworks.kernel.errors import SetupFailed, Unavailable

_LOCK = 0x6D6C666C  # so that two who start at once make it once


def prepare(url: str, cipher: Cipher, given: str | None) -> str:
    """The SQLAlchemy URL of a database that exists.

    ``url`` is the platform's own, ``given`` the one in the settings. Raises SetupFailed when the platform may not make
    one, Unavailable while the server does not answer.
    """
    if given is not None:
        return _plain(make_url(given).set(drivername="postgresql+psycopg"))
    platform = make_url(url)
    name = f"{platform.database}_mlflow"
    password = base64.urlsafe_b64encode(cipher.derive("tracking/database")).decode().rstrip("=")
    try:
        with psycopg.connect(_plain(platform.set(drivername="postgresql")), autocommit=True, connect_timeout=5) as one:
            one.execute("SELECT pg_advisory_lock(%s)", (_LOCK,))
            _make(one, name, password)
    except psycopg.errors.InsufficientPrivilege as error:
        raise SetupFailed(
            f"the platform may not make MLflow's database: {str(error).strip()}",
            remedy=f"CREATE ROLE {name} LOGIN PASSWORD '…'; CREATE DATABASE {name} OWNER {name}; "
            "and name it in MW_TRACKING_DATABASE_URL",
        ) from error
    except psycopg.OperationalError as error:
        raise Unavailable(f"the database does not answer: {str(error).strip()}") from error
    return _plain(platform.set(username=name, password=password, database=name))


def _make(connection: psycopg.Connection, name: str, password: str) -> None:
    role, secret = sql.Identifier(name), sql.Literal(password)
    if connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).fetchone() is None:
        connection.execute(sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(role, secret))
    else:  # a database that was restored may know another password
        connection.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(role, secret))
    if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (name,)).fetchone() is None:
        # Whoever makes a database for a role must be able to act as it; a superuser can.
        connection.execute(sql.SQL("GRANT {} TO CURRENT_USER").format(role))
        connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(role, role))
        connection.execute(sql.SQL("REVOKE CONNECT ON DATABASE {} FROM PUBLIC").format(role))


def _plain(url: URL) -> str:
    return url.render_as_string(hide_password=False)
