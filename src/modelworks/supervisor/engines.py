"""The engines as units: prepared, or checked when they are external."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict

from modelworks.embedded import external, postgres, seaweedfs
from modelworks.embedded.launch import Launch
from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed
from modelworks.settings import Settings
from modelworks.supervisor.ask import Protocol, Question
from modelworks.supervisor.preparation import Addresses
from modelworks.supervisor.unit import Unit
from modelworks.supervisor.units import Asked, Tell, ours

_STORE_PATIENCE, _STORE_PAUSE = 90.0, 0.1


def prepare(home: Home, settings: Settings, addresses: Addresses, asked: Asked, tell: Tell) -> None:
    """Make both engines ready at once and name their units; return when the store takes objects.

    Raises SetupFailed.
    """
    with ThreadPoolExecutor() as threads:
        works = {
            threads.submit(_database, home, settings, asked.running): "postgres",
            threads.submit(_store, home, settings, addresses, asked.running): "weed",
        }
        for work in as_completed(works):
            unit, seconds = work.result()
            if unit is not None:
                tell({"line": f"{unit.name} prepared ({seconds:.1f} s)"})
                tell({"unit": asdict(unit)})
            if works[work] == "postgres":  # named before when the database was known; the second is no other
                tell({"unit": asdict(ours(home, "controller"))})
    if settings.s3_endpoint is None:
        _await_store(home)


def _await_store(home: Home) -> None:
    """The store's port answers before it takes objects. Raises SetupFailed when it never does."""
    deadline = time.monotonic() + _STORE_PATIENCE
    while not seaweedfs.ready(home):
        if time.monotonic() > deadline:
            raise SetupFailed(
                f"the object store has taken no object for {_STORE_PATIENCE:.0f} s",
                remedy=f"see {home.logs}/weed.log",
            )
        time.sleep(_STORE_PAUSE)


def _database(home: Home, settings: Settings, running: frozenset[str]) -> tuple[Unit | None, float]:
    began = time.monotonic()
    if settings.database_url is not None:
        external.prepare_database(home, settings.database_url)
    elif "postgres" not in running:  # preparing ends a server that nobody owns, and this one is owned
        question = Question(f"unix:{home.postgres_socket_dir}/.s.PGSQL.5432", protocol=Protocol.POSTGRES)
        return engine("postgres", postgres.prepare(home), question), time.monotonic() - began
    return None, 0.0


def _store(home: Home, settings: Settings, addresses: Addresses, running: frozenset[str]) -> tuple[Unit | None, float]:
    began = time.monotonic()
    if settings.s3_endpoint is not None:
        external.prepare_store(home, settings.s3_endpoint, os.environ)
    elif "weed" not in running:
        launch = seaweedfs.prepare(home, host=addresses.host, port=addresses.s3_port)
        question = Question(f"tcp:{addresses.shown_host}:{addresses.s3_port}", "/healthz")
        return engine("weed", launch, question), time.monotonic() - began
    return None, 0.0


def engine(name: str, launch: Launch, question: Question) -> Unit:
    """The unit that runs an engine as it wants to be run."""
    return Unit(
        name=name,
        argv=launch.argv,
        questions=(question,),
        env=launch.env,
        bare=True,
        cwd=str(launch.cwd),
        uid=launch.user.uid if launch.user else None,
        gid=launch.user.gid if launch.user else None,
        stop_signal=int(launch.stop_signal),
        stop_timeout=launch.stop_timeout,
        leaves=tuple(map(str, launch.leaves)),
    )
