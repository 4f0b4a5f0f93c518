"""The units of a platform: what `prepare` tells the supervisor to run."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import Any

from modelworks.embedded import external, postgres, seaweedfs
from modelworks.embedded.launch import Launch
from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed
from modelworks.settings import Settings
from modelworks.supervisor import publicsocket
from modelworks.supervisor.ask import Protocol, Question
from modelworks.supervisor.preparation import PUBLIC, Addresses
from modelworks.supervisor.unit import Unit

Tell = Callable[[dict[str, Any]], None]
_STORE_PATIENCE, _STORE_PAUSE = 90.0, 0.1
_FROM_HERE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True)
class Asked:
    """What `up` was asked for, what this home had before (None: nothing), and which units run already."""

    host: str | None
    port: int | None
    s3_port: int | None
    known_host: str | None
    known_port: int | None
    known_s3_port: int | None
    running: frozenset[str]


def prepare(home: Home, asked: Asked, tell: Tell) -> None:
    """Say where the doors are, make both engines ready at once, and name every unit as soon as it may start.

    Raises SetupFailed and Invalid.
    """
    settings = Settings.load(home)
    addresses = choose(settings, asked)
    tell({"addresses": asdict(addresses)})
    units = {name: ours(home, name) for name in ("agent", "gateway", "controller")}
    # These two need neither engine to be ready: they load while the engines are prepared.
    for name in ("gateway", "agent"):
        tell({"unit": asdict(units[name])})
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
            if works[work] == "postgres":  # the controller waits by itself until the database answers
                tell({"unit": asdict(units["controller"])})
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


def choose(settings: Settings, asked: Asked) -> Addresses:
    """Where the doors are to be: as asked, else as set, else as before, else the default. Raises SetupFailed."""

    def pick(name: str, wish: Any, before: Any) -> Any:
        if wish is not None:
            return wish
        if name in settings.model_fields_set or before is None:
            return getattr(settings, name)
        return before

    host: str = pick("host", asked.host, asked.known_host)
    shown = _FROM_HERE.get(host, host)
    s3_port: int = pick("s3_port", asked.s3_port, asked.known_s3_port)
    if settings.s3_endpoint is None and "weed" not in asked.running:
        s3_port = free_port(host, s3_port)
    in_url = f"[{shown}]" if ":" in shown else shown
    return Addresses(
        host=host,
        port=pick("port", asked.port, asked.known_port),
        s3_port=s3_port,
        shown_host=shown,
        s3_url=settings.s3_endpoint or f"http://{in_url}:{s3_port}",
        advertise_url=settings.advertise_url,
    )


def free_port(host: str, port: int) -> int:
    """``port`` when it can be bound, one that the system picks for 0. Raises SetupFailed when it is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise publicsocket.refusal(error, host, port, "--s3-port") from error
        picked: int = probe.getsockname()[1]
        return picked


def ours(home: Home, name: str) -> Unit:
    """One of our own processes."""
    questions = {
        "controller": (Question(f"unix:{home.controller_socket}", "/api/v1/healthz"),),
        "agent": (Question(f"unix:{home.agent_socket}"),),
        "gateway": (Question(f"unix:{home.gateway_socket}", "/metrics"), Question(PUBLIC)),
    }
    return Unit(
        name=name,
        argv=(sys.executable, "-P", "-m", "modelworks.main", name, "--home", str(home.root)),
        questions=questions[name],
        # Each thread of the controller would keep an arena of the allocator for itself.
        env={"MALLOC_ARENA_MAX": "2"} if name == "controller" else {},
        listens=name == "gateway",
    )


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
        external.prepare_store(home, settings.s3_endpoint)
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
    )
