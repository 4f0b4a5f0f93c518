"""Our own processes as units, and where the platform's doors are: what can be said before the engines are looked at."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

from modelworks.home import Home
from modelworks.settings import MOST_GATEWAYS, Settings
from modelworks.supervisor import cluster, publicsocket, tracking
from modelworks.supervisor.ask import Question
from modelworks.supervisor.preparation import PUBLIC, PYTHON, Addresses
from modelworks.supervisor.unit import Unit
from modelworks.tracking import available

Tell = Callable[[dict[str, Any]], None]
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


def begin(home: Home, asked: Asked, tell: Tell) -> tuple[Settings, Addresses]:
    """Say where the doors are and name the processes that need no engine to be prepared: they load meanwhile.

    Raises SetupFailed and Invalid.
    """
    settings = Settings.load(home)
    lines = cluster.check(settings, os.environ)
    if settings.ray_address is not None:
        lines += cluster.leave_machine(home)
    addresses = choose(settings, asked)
    tell({"addresses": asdict(addresses)})
    for line in lines:
        tell({"line": line})
    for unit in gateways(home, settings.gateways or default_gateways(len(os.sched_getaffinity(0)))):
        tell({"unit": asdict(unit)})
    available.check(settings)
    if available.available(settings):
        tell({"unit": asdict(tracking.unit(home, _argv(home, "tracking")))})
    # On a cluster this machine takes work as one of its nodes, if it is one.
    agent = "agent" if settings.ray_address is None else "bridge"
    for name in (agent, "courier", *(["controller"] if controller_may_load(home, settings) else [])):
        tell({"unit": asdict(ours(home, name))})
    return settings, addresses


def controller_may_load(home: Home, settings: Settings) -> bool:
    """Whether the controller can start while the database is prepared: it waits until an address is written down.

    Only an address that is there already, and is another database's, would mislead it.
    """
    path = home.secrets / "database.json"
    if not path.exists():
        return True
    embedded = quote(str(home.postgres_socket_dir), safe="")
    return settings.database_url is None and embedded in path.read_text("utf-8")


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
        s3_url=settings.advertise_s3_url or settings.s3_endpoint or f"http://{in_url}:{s3_port}",
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


def default_gateways(cores: int) -> int:
    """One up to four cores, then one for each four, and eight at most."""
    return min(max(cores // 4, 1), MOST_GATEWAYS)


def gateways(home: Home, count: int) -> list[Unit]:
    """So many gateways on the one public socket: ``gateway``, ``gateway-2`` and so on."""
    return [
        Unit(
            name=name,
            argv=_argv(home, "gateway"),
            questions=(Question(f"unix:{home.run}/{name}.sock", "/metrics"), Question(PUBLIC)),
            env={"MW_GATEWAY": name, "MW_GATEWAY_COUNT": str(count)},
            listens=True,
        )
        for name in ("gateway", *(f"gateway-{number}" for number in range(2, count + 1)))
    ]


def ours(home: Home, name: str) -> Unit:
    """One of our other processes."""
    questions = {
        "controller": (Question(f"unix:{home.controller_socket}", "/api/v1/healthz"),),
        "agent": (Question(f"unix:{home.agent_socket}"),),
        "bridge": (Question(f"unix:{home.bridge_socket}"),),
        "courier": (Question(f"unix:{home.courier_control_socket}", "/metrics"),),
    }
    return Unit(
        name=name,
        argv=_argv(home, name),
        questions=questions[name],
        # Each thread of the controller would keep an arena of the allocator for itself.
        env={"MALLOC_ARENA_MAX": "2"} if name == "controller" else {},
    )


def _argv(home: Home, process: str) -> tuple[str, ...]:
    return (*PYTHON, "modelworks.main", process, "--home", str(home.root))
