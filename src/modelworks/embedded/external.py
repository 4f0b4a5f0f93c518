"""Engines that run elsewhere: named by a URL, checked first, known by the same files in ``secrets/``."""

from __future__ import annotations

import json
from collections.abc import Mapping

import psycopg

from modelworks.embedded.binaries import OLDEST
from modelworks.embedded.launch import make_directory, write_secret
from modelworks.home import Home
from modelworks.kernel.errors import ModelworksError, SetupFailed
from modelworks.objectstore import buckets
from modelworks.objectstore.credentials import Credentials

OLDEST_VECTOR = (0, 8)


def prepare_database(home: Home, url: str) -> str:
    """``secrets/database.json`` holds the SQLAlchemy URL of ``url`` (``MW_DATABASE_URL``), which is returned.

    Raises SetupFailed when it does not answer, is older than 15, or has no pgvector ≥ 0.8.
    """
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("postgresql", "postgres", "postgresql+psycopg"):
        raise SetupFailed(
            f"MW_DATABASE_URL names {scheme!r}, not a PostgreSQL database",
            remedy="write postgresql://user:password@host:5432/database",
        )
    try:
        with psycopg.connect(f"postgresql://{rest}", connect_timeout=5) as connection:
            version = connection.info.server_version // 10000
            connection.execute("SELECT version()")
            row = connection.execute(
                "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"
            ).fetchone()
    except psycopg.Error as error:
        raise SetupFailed(
            f"the database of MW_DATABASE_URL does not answer: {str(error).strip()}",
            remedy="check host, port, user and password, or unset MW_DATABASE_URL for the embedded one",
        ) from error
    if version < OLDEST:
        raise SetupFailed(f"the database is PostgreSQL {version}", remedy=f"PostgreSQL {OLDEST} or newer is needed")
    vector = row[0] if row else None
    if vector is None or tuple(int(n) for n in vector.split(".")[:2]) < OLDEST_VECTOR:
        raise SetupFailed(
            f"the database offers {'no pgvector' if vector is None else f'pgvector {vector}'}",
            remedy="install pgvector 0.8 or newer on the database server",
        )
    normalised = f"postgresql+psycopg://{rest}"
    make_directory(home.secrets, 0o700)
    write_secret(home.secrets / "database.json", json.dumps({"url": normalised}) + "\n")
    return normalised


def prepare_store(home: Home, endpoint: str, environ: Mapping[str, str]) -> Credentials:
    """``secrets/s3.json`` and ``agent.json`` hold the credentials of ``environ`` (``AWS_*``) at ``MW_S3_ENDPOINT``.

    Raises SetupFailed when they are missing, refused, or the store does not answer.
    """
    try:
        credentials = Credentials(
            endpoint=endpoint,
            region=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION") or "us-east-1",
            access_key_id=environ["AWS_ACCESS_KEY_ID"],
            secret_access_key=environ["AWS_SECRET_ACCESS_KEY"],
            session_token=environ.get("AWS_SESSION_TOKEN"),
        )
    except KeyError as missing:
        raise SetupFailed(
            f"MW_S3_ENDPOINT is set, but {missing.args[0]} is not",
            remedy="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or unset MW_S3_ENDPOINT for the embedded store",
        ) from missing
    try:
        buckets.list_buckets(credentials)
    except ModelworksError as error:
        raise SetupFailed(
            f"the object store of MW_S3_ENDPOINT cannot be used: {error.detail}",
            remedy="check the endpoint and the keys, or unset MW_S3_ENDPOINT for the embedded one",
        ) from error
    make_directory(home.secrets, 0o700)
    for name in ("s3.json", "agent.json"):
        write_secret(home.secrets / name, json.dumps(credentials.dump()) + "\n")
    return credentials
