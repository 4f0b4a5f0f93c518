"""The platform over a PostgreSQL and an object store that run elsewhere, named by URLs as their makers write them."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import make_url
from tests import engines
from tests.cli_platform import Mw

from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri
from modelworks.supervisor.state import State

JOB = """
apiVersion: modelworks/v1
kind: TrainingJob
metadata: {name: copy}
spec:
  command: echo copying; cp "$MW_INPUT_DATA/word.txt" "$MW_OUTPUT_DIR/word.txt"
  inputs: {data: s3://words/in/}
  output: s3://words/out/
  resources: {cpu: 100m, memory: 128Mi}
"""


@dataclass(frozen=True)
class ExternalMw(Mw):
    """`mw` with variables that name the engines."""

    named: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        return super().environment | self.named


@pytest.fixture(scope="module")
def mw(postgres_server: str, store: Credentials) -> Iterator[ExternalMw]:
    server = make_url(postgres_server).set(drivername="postgresql")  # libpq's form, without a driver
    name = f"external_{secrets.token_hex(4)}"
    maintenance = server.set(database="postgres").render_as_string(hide_password=False)
    named = {
        "MW_DATABASE_URL": server.set(database=name).render_as_string(hide_password=False),
        "MW_S3_ENDPOINT": store.endpoint,
        "AWS_ACCESS_KEY_ID": store.access_key_id,
        "AWS_SECRET_ACCESS_KEY": store.secret_access_key,
    }
    with psycopg.connect(maintenance, autocommit=True) as connection, engines.temporary_home() as home:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE modelworks")
        platform = ExternalMw(home, named)
        try:
            platform.ok("up", "--detach")
            yield platform
        finally:
            platform("down", "--grace", "2")
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_no_engine_of_its_own_runs(mw: ExternalMw) -> None:
    names = {process.unit.name for process in State.load(mw.home).living()}
    assert names == {"controller", "agent", "gateway", "courier"}
    assert json.loads(mw.home.client.read_text())["s3_url"] == mw.named["MW_S3_ENDPOINT"]


def test_a_job_reads_and_writes_the_store(mw: ExternalMw, tmp_path: Path) -> None:
    (tmp_path / "word.txt").write_text("hello\n")
    (tmp_path / "job.yaml").write_text(JOB)
    mw.ok("bucket", "create", "words")
    mw.ok("bucket", "upload", str(tmp_path / "word.txt"), "s3://words/in/word.txt")
    mw.ok("apply", "-f", str(tmp_path / "job.yaml"))
    mw.ok("job", "wait", "copy")
    mw.ok("bucket", "download", "s3://words/out/word.txt", str(tmp_path / "back"))
    back = tmp_path / "back"
    assert (back / "word.txt" if back.is_dir() else back).read_text() == "hello\n"


def test_a_controller_that_is_started_again_needs_no_variables(mw: ExternalMw) -> None:
    """Who starts it again may have another environment: what `mw up` was given is in the home."""
    assert json.loads((mw.home.secrets / "database.json").read_text())["url"].startswith("postgresql+psycopg://")
    assert "copy" in mw.ok("job", "list")


def test_a_deleted_job_leaves_its_output_and_nothing_else(mw: ExternalMw, store: Credentials) -> None:
    def keys(uri: str) -> list[str]:
        return [found.key for found in ObjectClient(store).list(ObjectUri.parse(uri))]

    assert keys("s3://mw-default/logs/")
    mw.ok("job", "delete", "copy")
    deadline = time.monotonic() + 60
    while "copy" in mw.ok("job", "list"):
        assert time.monotonic() < deadline, "the job does not go"
        time.sleep(0.1)
    assert keys("s3://mw-default/logs/") == []
    assert "out/word.txt" in keys("s3://words/out/")
