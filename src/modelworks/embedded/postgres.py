"""The embedded PostgreSQL: a cluster of our own, reached by a Unix socket only.

``postgres/`` in the home holds ``data`` (the cluster), ``postgresql.conf`` and ``pg_hba.conf`` (rewritten at each
start) and, under root, a copy of the binaries where the unprivileged user can run them.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

import psycopg

from modelworks.embedded import binaries, orphans
from modelworks.embedded.binaries import Binaries
from modelworks.embedded.launch import (
    Launch,
    User,
    check_reachable,
    check_space,
    explained,
    make_directory,
    unprivileged_user,
    write_secret,
)
from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed

ROLE = DATABASE = "modelworks"
_PASSWORD = "postgres.json"
_ORPHAN_WAIT = 15.0  # seconds for a server that nobody owns any more to end

_CONFIGURATION = """\
# Written at every start of the platform: changes here are lost. Small memory, full durability.
listen_addresses = ''
unix_socket_permissions = 0700
max_connections = 64
shared_buffers = 48MB
work_mem = 8MB
maintenance_work_mem = 64MB
effective_cache_size = 512MB
jit = off
max_worker_processes = 4
max_parallel_workers = 2
autovacuum_max_workers = 2
max_wal_size = 512MB
min_wal_size = 64MB
max_wal_senders = 2
max_logical_replication_workers = 0
bgwriter_delay = 1s
bgwriter_lru_maxpages = 400
random_page_cost = 1.1
huge_pages = off
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] '
log_checkpoints = off
cluster_name = 'modelworks'
"""
# The default of 18, three I/O worker processes, costs memory and gains nothing at this size.
_CONFIGURATION_18 = "io_method = sync\n"
_HBA = "local all all scram-sha-256\n"


def prepare(home: Home, provider: str | None = None) -> Launch:
    """The cluster exists, nothing stale is in its way, and this starts it. Takes about a second the first time.

    ``provider`` of the binaries, else ``$MW_POSTGRES_PROVIDER``, else the first of ``PROVIDERS`` that is there.

    Raises SetupFailed when there are no binaries, the directory cannot be used, or it belongs to another major version.
    """
    user = unprivileged_user()
    _make_directories(home, user)
    engine = binaries.runnable(binaries.find(provider or os.environ.get("MW_POSTGRES_PROVIDER")), user, home.postgres)
    data = home.postgres / "data"
    check_space(home.postgres)
    _write_configuration(home, engine, user)
    if (data / "PG_VERSION").exists():
        _check_version(data, engine)
        # A server that no supervisor knows any more, and then its last backends.
        orphans.end(data, "postgres", _read_pid(data / "postmaster.pid"), signal.SIGINT, _ORPHAN_WAIT)
        _remove_stale_locks(home)
        if _password(home) is None:
            _set_password(home, engine, user)
    else:
        _initialise(home, engine, user)
    write_secret(home.secrets / "database.json", json.dumps({"url": _url(home)}) + "\n")
    return Launch(
        argv=(str(engine.bin / "postgres"), *_server_arguments(home)),
        env=_environment(engine),
        cwd=home.postgres,
        user=user,
        stop_signal=signal.SIGINT,  # "fast": open transactions are rolled back, then a checkpoint
        stop_timeout=30.0,
    )


def ready(home: Home) -> bool:
    """The server answers a query on a connection made with our password."""
    conninfo = _url(home).replace("postgresql+psycopg", "postgresql")
    try:
        with psycopg.connect(conninfo, connect_timeout=2) as connection:
            return connection.execute("SELECT 1").fetchone() == (1,)
    except psycopg.OperationalError:
        return False


def database_url(home: Home) -> str:
    """The SQLAlchemy URL in ``secrets/database.json``. Raises SetupFailed when there is none yet."""
    path = home.secrets / "database.json"
    with explained(path):
        return str(json.loads(path.read_text())["url"])


def _url(home: Home) -> str:
    password = _password(home)
    return f"postgresql+psycopg://{ROLE}:{password}@/{DATABASE}?host={quote(str(home.postgres_socket_dir), safe='')}"


def _password(home: Home) -> str | None:
    path = home.secrets / _PASSWORD
    with explained(path):
        return str(json.loads(path.read_text())["password"]) if path.exists() else None


def _make_directories(home: Home, user: User | None) -> None:
    # Under root the server's account must pass through these, but not look around in them.
    passage = 0o700 if user is None else 0o711
    make_directory(home.root, passage)
    make_directory(home.secrets, 0o700)
    make_directory(home.run, passage)
    make_directory(home.postgres, passage)
    make_directory(home.postgres_socket_dir, 0o700, user)
    if user is not None:
        check_reachable(home.postgres / "data", user)
        check_reachable(home.postgres_socket_dir, user)


def _write_configuration(home: Home, engine: Binaries, user: User | None) -> None:
    text = _CONFIGURATION + f"unix_socket_directories = '{home.postgres_socket_dir}'\n"
    if engine.major >= 18:
        text += _CONFIGURATION_18
    write_secret(home.postgres / "postgresql.conf", text, user)
    write_secret(home.postgres / "pg_hba.conf", _HBA, user)


def _server_arguments(home: Home, data: Path | None = None) -> tuple[str, ...]:
    return (
        *("-D", str(data or home.postgres / "data")),
        *("-c", f"config_file={home.postgres / 'postgresql.conf'}"),
        *("-c", f"hba_file={home.postgres / 'pg_hba.conf'}"),
    )


def _environment(engine: Binaries) -> dict[str, str]:
    # Nothing of the caller's PG* variables or locale may reach the server.
    return {"PATH": f"{engine.bin}:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def _check_version(data: Path, engine: Binaries) -> None:
    with explained(data):
        major = int((data / "PG_VERSION").read_text().strip())
    if major != engine.major:
        raise SetupFailed(
            f"{data} was made by PostgreSQL {major}; the installed one ({engine.provider}) is {engine.version}",
            remedy=f"install PostgreSQL {major} again and name it with MW_POSTGRES_PROVIDER, then move the data with "
            f"pg_dump and pg_restore; or move {data} away to begin with an empty database",
        )


def _initialise(home: Home, engine: Binaries, user: User | None) -> None:
    """Make the cluster beside its place and rename it there, so that one killed half way is made again."""
    data, temporary = home.postgres / "data", home.postgres / "data.new"
    if data.exists() and any(data.iterdir()):
        raise SetupFailed(f"{data} is not a PostgreSQL cluster (no PG_VERSION)", remedy="move it away and start again")
    with explained(temporary):
        shutil.rmtree(temporary, ignore_errors=True)
    make_directory(temporary, 0o700, user)
    password = secrets.token_urlsafe(32)
    password_file = home.postgres / "password"
    write_secret(password_file, password + "\n", user)
    locale = ("--locale-provider=builtin", "--locale=C.UTF-8") if engine.major >= 17 else ("--locale=C",)
    try:
        _run(
            *(engine.bin / "initdb", "-D", temporary, "-U", ROLE, "-E", "UTF8", *locale),
            *("--auth=scram-sha-256", f"--pwfile={password_file}"),
            engine=engine,
            user=user,
            home=home,
        )
    finally:
        password_file.unlink(missing_ok=True)
    _single(home, engine, user, "postgres", f"CREATE DATABASE {DATABASE};\n", temporary)
    _single(home, engine, user, DATABASE, "CREATE EXTENSION vector;\n", temporary)
    write_secret(home.secrets / _PASSWORD, json.dumps({"password": password}) + "\n")
    with explained(data):
        shutil.rmtree(data, ignore_errors=True)
        temporary.rename(data)
        _sync_directory(home.postgres)


def _set_password(home: Home, engine: Binaries, user: User | None) -> None:
    """A home whose secret was lost gets a new one: who owns the files may always set it."""
    password = secrets.token_urlsafe(32)
    _single(home, engine, user, "postgres", f"ALTER ROLE {ROLE} PASSWORD '{password}';\n")
    write_secret(home.secrets / _PASSWORD, json.dumps({"password": password}) + "\n")


def _single(home: Home, engine: Binaries, user: User | None, database: str, sql: str, data: Path | None = None) -> None:
    """Run ``sql`` on the stopped cluster in single-user mode, as the bootstrap role."""
    arguments = _server_arguments(home, data)
    _run(engine.bin / "postgres", "--single", "-j", *arguments, database, engine=engine, user=user, home=home, text=sql)


def _run(*argv: str | Path, engine: Binaries, user: User | None, home: Home, text: str | None = None) -> None:
    done = subprocess.run(
        [str(a) for a in argv],
        env=_environment(engine),
        cwd=home.postgres,
        input=text,
        capture_output=True,
        text=True,
        check=False,
        user=None if user is None else user.uid,
        group=None if user is None else user.gid,
        extra_groups=None if user is None else [],
    )
    output = (done.stdout + done.stderr).strip()
    # A failed statement in single-user mode does not change the exit status.
    failed = done.returncode != 0 or any(mark in done.stderr for mark in ("ERROR:", "FATAL:", "PANIC:"))
    if not failed:
        return
    if any(sign in output for sign in ("No space left on device", "Check free disk space")):
        raise SetupFailed(
            f"no space left on the disk of {home.postgres}", remedy="free some space, or set MW_HOME to another disk"
        )
    lines = "\n".join(output.splitlines()[-5:])
    raise SetupFailed(
        f"{Path(argv[0]).name} failed with status {done.returncode} in {home.postgres}:\n{lines}",
        remedy="the lines above are PostgreSQL's own; when the directory was damaged, move it away and start again",
    )


def _remove_stale_locks(home: Home) -> None:
    """Lock files survive a power cut, and their pid may be anybody's by now. Only once nothing works there."""
    socket = home.postgres_socket_dir / ".s.PGSQL.5432"
    locks = [home.postgres / "data" / "postmaster.pid", socket, socket.with_name(socket.name + ".lock")]
    for path in locks:
        with explained(path):
            path.unlink(missing_ok=True)


def _read_pid(path: Path) -> int:
    """The pid in the first line of a lock file; 0 when there is none."""
    try:
        line = path.read_text().split("\n", 1)[0].strip()
    except FileNotFoundError:
        return 0
    return int(line) if line.isdigit() else 0


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
