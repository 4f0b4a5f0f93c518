"""Prometheus text of the whole platform: the gateways', the courier's, and what the controller knows of services."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import PlainTextResponse
from sqlalchemy import Connection, select

from modelworks.db.tables import resources as table
from modelworks.kernel.errors import Forbidden, Invalid
from modelworks.kernel.run import RunKey, RunObservation
from modelworks.products.context import ContextOf, PrincipalOf
from modelworks.products.serving import engines
from modelworks.products.serving.engines import ReplicaNow
from modelworks.products.serving.explain import observed_runs
from modelworks.products.serving.record import Record
from modelworks.products.serving.routing import public_name
from modelworks.products.serving.spec import ServiceSpec
from modelworks.products.serving.wanted import wanted_replicas

_routes = APIRouter(tags=["platform"])
_TIMEOUT = 2.0
_MOST = 64 * 1024 * 1024
_SERIES = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")


def router() -> APIRouter:
    return _routes


@dataclass(frozen=True)
class ServiceGauges:
    """One service. ``least`` and ``most`` are None when nothing scales it; ``p99_bound`` in seconds."""

    service: str
    wanted: int
    ready: int
    least: int | None
    most: int | None
    p99_bound: float | None
    alerts: tuple[str, ...]
    uid: str = ""


@_routes.get(
    "/metrics",
    summary="Prometheus metrics",
    operation_id="getMetrics",
    response_class=PlainTextResponse,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def metrics(context: ContextOf, principal: PrincipalOf) -> PlainTextResponse:
    """Of every process, told apart by the label ``process``. Not for keys of one workspace: it names all services."""
    if principal.workspace is not None:
        raise Forbidden(f"the key {principal.name} is of the workspace {principal.workspace}; metrics are of all")
    with context.engine.connect() as connection:
        rows = list(_gauges(connection))
    replicas = _replicas(rows, observed_runs(context, ""))
    own = "\n".join([*render(rows).splitlines(), *engines.render(replicas), ""])
    texts = {"controller": own}
    up = {"controller": 1}
    for path in (*sorted(context.home.run.glob("gateway*.sock")), context.home.run / "courier-control.sock"):
        if not path.exists():
            continue
        name = path.stem.removesuffix("-control")
        text = _ask(path)
        up[name] = int(text is not None)
        texts[name] = text or ""
    alive = [f'mw_process_up{{process="{name}"}} {value}' for name, value in up.items()]
    body = merged(texts) + "\n".join(["# TYPE mw_process_up gauge", *alive, ""])
    return PlainTextResponse(body, media_type="text/plain; version=0.0.4")


def render(gauges: Iterable[ServiceGauges]) -> str:
    """The controller's own part, Prometheus text format 0.0.4."""
    rows = list(gauges)
    families: tuple[tuple[str, Mapping[str, float | None]], ...] = (
        ("mw_service_replicas_wanted", {row.service: row.wanted for row in rows}),
        ("mw_service_replicas_ready", {row.service: row.ready for row in rows}),
        ("mw_service_replicas_min", {row.service: row.least for row in rows}),
        ("mw_service_replicas_max", {row.service: row.most for row in rows}),
        ("mw_service_p99_bound_seconds", {row.service: row.p99_bound for row in rows}),
    )
    lines = []
    for name, values in families:
        lines.append(f"# TYPE {name} gauge")
        lines += [f'{name}{{service="{service}"}} {value:g}' for service, value in values.items() if value is not None]
    lines.append("# TYPE mw_service_alert gauge")
    lines += [f'mw_service_alert{{service="{row.service}",alert="{alert}"}} 1' for row in rows for alert in row.alerts]
    return "\n".join(lines) + "\n"


def merged(texts: Mapping[str, str]) -> str:
    """The texts of several processes as one: every family once, each series with the label ``process``."""
    families: dict[str, tuple[str, list[str]]] = {}
    for process, text in texts.items():
        family = ""
        for line in text.splitlines():
            if line.startswith("# TYPE "):
                family = line.split()[2]
                families.setdefault(family, (line, []))
            elif (found := _SERIES.fullmatch(line)) is not None:
                name, labels, value = found.groups()
                series = f'{name}{{process="{process}"{"," + labels if labels else ""}}} {value}'
                families.setdefault(family or name, ("", []))[1].append(series)
    lines = [line for head, series in families.values() for line in (head, *series) if line]
    return "\n".join(lines) + "\n"


def _gauges(connection: Connection) -> Iterator[ServiceGauges]:
    query = select(table.c.uid, table.c.workspace, table.c.name, table.c.spec, table.c.status)
    for row in connection.execute(query.where(table.c.kind == "Service").order_by(table.c.workspace, table.c.name)):
        try:
            spec, record = ServiceSpec.parse(row.spec, at="spec"), Record.of(row.status)
        except Invalid:
            continue  # of another release: its status says so, and the others have numbers still
        scaling = spec.autoscaling
        yield ServiceGauges(
            uid=row.uid,
            service=public_name(row.workspace, row.name),
            wanted=wanted_replicas(spec, record),
            ready=record.ready,
            least=scaling.min if scaling else None,
            most=scaling.max if scaling else None,
            p99_bound=spec.alerts.p99,
            alerts=tuple(name for name, breach in sorted(record.alerts.items()) if breach.firing),
        )


def _replicas(rows: Iterable[ServiceGauges], runs: Iterable[RunObservation]) -> dict[str, list[ReplicaNow]]:
    """By the names that callers know."""
    names = {row.uid: row.service for row in rows}
    found: dict[str, list[RunObservation]] = {}
    for run in runs:
        name = names.get(RunKey.parse(run.key).uid)
        if name is not None:
            found.setdefault(name, []).append(run)
    return {name: engines.replicas_now(found[name]) for name in sorted(found)}


def _ask(path: Path) -> str | None:
    """The metrics of a process; None when it does not answer."""
    parts: list[bytes] = []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connected:
            connected.settimeout(_TIMEOUT)
            connected.connect(str(path))
            connected.sendall(b"metrics\n")
            while (part := connected.recv(1 << 16)) and sum(map(len, parts)) < _MOST:
                parts.append(part)
    except OSError:
        return None
    return b"".join(parts).decode("utf-8", "replace")
