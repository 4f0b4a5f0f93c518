"""The embedded PostgreSQL on its real binaries."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest
from tests import engines

from modelworks.embedded import binaries, external, orphans, postgres
from modelworks.embedded.launch import User, unprivileged_user
from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes users")


@contextmanager
def server(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    launch = postgres.prepare(home)
    with engines.running(launch, lambda: postgres.ready(home), home.root / "log") as process:
        yield process


@contextmanager
def connected(home: Home) -> Iterator[psycopg.Connection]:
    with psycopg.connect(postgres.database_url(home).replace("+psycopg", ""), autocommit=True) as connection:
        yield connection


def test_a_database_of_ones_own(database_url: str) -> None:
    with psycopg.connect(database_url.replace("+psycopg", "")) as connection:
        connection.execute("CREATE TABLE t (v vector(3))")
        connection.execute("INSERT INTO t VALUES ('[1,2,3]')")
        assert connection.execute("SELECT v <-> '[1,2,4]' FROM t").fetchone() == (1.0,)


def test_private_and_durable(home: Home) -> None:
    with server(home), connected(home) as connection:
        for name, value in {"fsync": "on", "synchronous_commit": "on", "listen_addresses": "", "jit": "off"}.items():
            assert connection.execute(f"SHOW {name}").fetchone() == (value,)
        assert stat.S_IMODE(home.postgres_socket_dir.stat().st_mode) == 0o700
        for path in home.secrets.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
        wrong = postgres.database_url(home).replace("+psycopg", "").replace("modelworks:", "modelworks:x")
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)


def test_killed_it_comes_back_with_what_was_committed_and_ends_its_orphans(home: Home) -> None:
    with server(home) as process, connected(home) as connection:
        connection.execute("CREATE TABLE t (n int)")
        for n in range(50):
            connection.execute("INSERT INTO t VALUES (%s)", [n])
        engines.kill(process)
    url = postgres.database_url(home)
    # A second one is left running by a supervisor that forgot it.
    launch = postgres.prepare(home)
    forgotten = engines.start(launch, home.root / "log")
    engines.wait_ready(forgotten, lambda: postgres.ready(home), home.root / "log")
    with server(home), connected(home) as connection:
        assert forgotten.wait(10) == 0
        assert connection.execute("SELECT count(*) FROM t").fetchone() == (50,)
    assert postgres.database_url(home) == url
    assert orphans.working_in(home.postgres / "data", "postgres") == set()


def test_lock_files_of_before_a_reboot_are_not_believed(home: Home) -> None:
    postgres.prepare(home)
    # The pid belongs to somebody else now: to this test.
    text = f"{os.getpid()}\n{home.postgres / 'data'}\n"
    lock = home.postgres_socket_dir / ".s.PGSQL.5432.lock"
    for path in (home.postgres / "data" / "postmaster.pid", lock, lock.with_suffix("")):
        path.write_text(text)
    with server(home), connected(home) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_killed_initdb_is_repaired(home: Home) -> None:
    (home.postgres / "data.new" / "base").mkdir(parents=True)
    (home.postgres / "data.new" / "PG_VERSION").write_text("18\n")
    with server(home), connected(home) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert not (home.postgres / "data.new").exists()


def test_a_lost_password_is_made_anew(home: Home) -> None:
    postgres.prepare(home)
    shutil.rmtree(home.secrets)
    with server(home), connected(home) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_another_major_version_is_refused_with_a_remedy(home: Home) -> None:
    data = home.postgres / "data"
    data.mkdir(parents=True)
    for major in ("14", "99"):
        (data / "PG_VERSION").write_text(f"{major}\n")
        with pytest.raises(SetupFailed, match=f"made by PostgreSQL {major}") as refused:
            postgres.prepare(home)
        assert refused.value.remedy


def test_somebody_elses_directory_is_refused(home: Home) -> None:
    (home.postgres / "data").mkdir(parents=True)
    (home.postgres / "data" / "precious").touch()
    with pytest.raises(SetupFailed, match="not a PostgreSQL cluster"):
        postgres.prepare(home)
    assert (home.postgres / "data" / "precious").exists()


def test_an_unknown_provider_is_refused() -> None:
    with pytest.raises(SetupFailed, match="not known"):
        binaries.find("mysql")


def test_a_provider_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(binaries.PROVIDERS, "system", lambda: iter(()))
    with pytest.raises(SetupFailed, match="system: not installed"):
        binaries.find("system")


@as_root
def test_a_home_that_the_account_cannot_enter_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    with pytest.raises(SetupFailed, match="cannot enter") as refused:
        postgres.prepare(Home(tmp_path / "home"))
    assert "chmod o+x" in (refused.value.remedy or "")


@as_root
def test_binaries_out_of_reach_are_copied(home: Home) -> None:
    found = binaries.find()
    user = unprivileged_user()
    assert isinstance(user, User)
    hidden = home.root / "hidden"
    shutil.copytree(found.root, hidden / found.root.name, symlinks=True)
    libraries = found.root.with_name(f"{found.root.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, hidden / libraries.name)
    hidden.chmod(0o700)
    unreachable = binaries.Binaries(
        found.provider,
        hidden / found.root.name / found.bin.relative_to(found.root),
        hidden / found.root.name,
        found.version,
    )
    home.postgres.mkdir(mode=0o711)
    moved = binaries.runnable(unreachable, user, home.postgres)
    assert moved.bin.is_relative_to(home.postgres)
    for name in ("initdb", "postgres"):
        command = [moved.bin / name, "--version"]
        subprocess.run(command, user=user.uid, group=user.gid, extra_groups=[], check=True, stdout=subprocess.DEVNULL)
    assert binaries.runnable(unreachable, user, home.postgres) == moved


@pytest.fixture
def small_disk(home: Home) -> Iterator[Home]:
    """A home on a file system of 40 MB."""
    place = home.root / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m,mode=711", "tmpfs", place], check=True)
    yield Home(place)
    subprocess.run(["umount", place], check=True)


@as_root
def test_a_full_disk_is_told(small_disk: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupFailed, match="no space left on the disk of"):
        postgres.prepare(small_disk)
    # Also when it fills up while the cluster is being made.
    monkeypatch.setattr(postgres, "check_space", Path)
    with pytest.raises(SetupFailed, match="no space left on the disk of"):
        postgres.prepare(small_disk)


def test_a_file_in_the_way_is_told(home: Home) -> None:
    home.postgres.write_text("")
    with pytest.raises(SetupFailed, match="not a directory"):
        postgres.prepare(home)


def test_an_external_database(home: Home, database_url: str) -> None:
    plain = database_url.replace("+psycopg", "")
    assert external.prepare_database(home, plain) == database_url
    assert postgres.database_url(home) == database_url
    for url, why in (("mysql://x", "not a PostgreSQL"), ("postgresql://x@127.0.0.1:9/y", "does not answer")):
        with pytest.raises(SetupFailed, match=why):
            external.prepare_database(home, url)


def test_the_stop_is_graceful(home: Home) -> None:
    launch = postgres.prepare(home)
    assert launch.stop_signal is signal.SIGINT
    process = engines.start(launch, home.root / "log")
    engines.wait_ready(process, lambda: postgres.ready(home), home.root / "log")
    with connected(home):
        assert engines.stop(process, launch) == 0
    assert list(home.postgres_socket_dir.iterdir()) == []
