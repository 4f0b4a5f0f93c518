"""`mw service profile`: the batch size and concurrency that suit a service, by measurement on a copy of it."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

import typer

from modelworks.cli.command import Invocation, invocation
from modelworks.cli.problems import ExitCode
from modelworks.cli.stress import probe, seconds, target_of
from modelworks.kernel.errors import Invalid, ModelworksError, NotFound, TimedOut, WorkloadFailed
from modelworks.kernel.quantities import format_bytes
from modelworks.sdk import services
from modelworks.sdk.client import Client, Document
from modelworks.sdk.load import profile as profiles
from modelworks.sdk.load.generator import Generator, Target
from modelworks.sdk.load.profile import Trial
from modelworks.sdk.waiting import until

_OWN_SERVER = ("onnx", "tensorrt", "sklearn", "xgboost", "lightgbm", "torch", "python")
# What would keep a copy from showing what one replica can do.
_LEFT_OUT = ("autoscaling", "canary", "capture", "tasks", "rate_limit", "concurrency_limit", "alerts")
_WARM = 1.0  # seconds of load before a trial counts
_SAMPLED = 2.0  # seconds between two looks of the node at a replica's memory


def profile(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The service's name.")],
    data: Annotated[str | None, typer.Option("--data", "-d", help="The body; @FILE reads a file.")] = None,
    path: Annotated[str, typer.Option(help="Below the endpoint.")] = "",
    content_type: Annotated[str, typer.Option(help="Of the body.")] = "application/json",
    target_p99: Annotated[
        str | None, typer.Option("--target-p99", help="Settings with a longer p99 are unsafe.")
    ] = None,
    max_batch: Annotated[int, typer.Option(min=1, max=4096, help="The largest batch to try.")] = 64,
    duration: Annotated[str, typer.Option(help="Of each trial.")] = "6s",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Change nothing, say what would be.")] = False,
) -> None:
    """Find the batch size and concurrency of most throughput, and write them into the spec.

    Memory stays below 80 % of the limit and p99 below --target-p99. It works on a copy of the service with one replica,
    which is deleted at the end.
    """
    call = invocation(ctx)
    target = seconds("--target-p99", target_p99) if target_p99 else None
    length = max(seconds("--duration", duration), 2 * _SAMPLED)
    client = call.connect()
    service = client.get(services.KIND, name)
    if service["spec"].get("tasks"):
        raise Invalid(f"service {name} is asynchronous: its answers do not say when the work is done")
    batched = service["spec"]["processor"] in _OWN_SERVER
    copy = f"{name[:40].rstrip('-')}-profile-{secrets.token_hex(2)}"
    options = {"path": path, "content_type": content_type}
    work = _Profile(call, client, service, copy, length, target, lambda: target_of(client, copy, data, **options))
    try:
        chosen = work.run(max_batch, batched)
    except KeyboardInterrupt:
        call.out.note("interrupted: nothing is changed")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    finally:
        _remove(client, copy)
    _finish(call, client, service, work.trials, chosen, dry_run)


def _remove(client: Client, copy: str) -> None:
    """Also after Ctrl-C and errors; what takes longer to end is ended by the platform."""
    with contextlib.suppress(NotFound, TimedOut):
        client.delete(services.KIND, copy)
        until(client, services.KIND, copy, lambda _: False, timeout=60)


@dataclass
class _Profile:
    call: Invocation
    client: Client
    service: Document
    copy: str
    length: float
    target: float | None
    aim: Callable[[], Target]
    trials: list[Trial] = field(default_factory=list)

    def run(self, most: int, batched: bool) -> Trial | None:
        """Batch sizes first, each with callers for two batches; then fewer and more callers at the best."""
        if not batched:
            self._deploy(None, most)
            return profiles.best(self._callers(None, profiles.doubling(most)), self.target)
        found: list[Trial] = []
        deployed = 0
        for batch in profiles.doubling(most):
            self._deploy(batch, 4 * most)
            deployed = batch
            found.append(self._trial(batch, 2 * batch))
            if profiles.enough(found, self.target):
                break
        chosen = profiles.best(found, self.target)
        if chosen is None or chosen.batch is None:
            return None
        if deployed != chosen.batch:
            self._deploy(chosen.batch, 4 * most)
        wanted = sorted({max(1, chosen.batch // 2), chosen.batch, 4 * chosen.batch})
        return profiles.best([*self._callers(chosen.batch, wanted), chosen], self.target)

    def _callers(self, batch: int | None, counts: list[int]) -> list[Trial]:
        found: list[Trial] = []
        for count in counts:
            found.append(self._trial(batch, count))
            if profiles.enough(found, self.target):
                break
        return found

    def _deploy(self, batch: int | None, concurrency: int) -> None:
        kept = {key: value for key, value in self.service["spec"].items() if key not in _LEFT_OUT}
        delay = (kept.get("batching") or {}).get("max_batch_delay_ms", 0.0)
        spec = {
            **kept,
            "replicas": 1,
            "stopped": False,
            "concurrency": min(max(concurrency, 16), 10_000),
            **({"batching": {"max_batch_size": batch, "max_batch_delay_ms": delay}} if batch else {}),
        }
        metadata = {"name": self.copy, "workspace": self.client.workspace}
        self.client.apply([{"kind": services.KIND, "metadata": metadata, "spec": spec}])
        services.check_ready(services.wait_ready(self.client, self.copy, timeout=600))
        probe(self.client, self.copy, self.aim())

    def _trial(self, batch: int | None, concurrency: int) -> Trial:
        generator = Generator(self.aim(), timeout=60.0, connections=concurrency)
        asyncio.run(generator.busy(concurrency, _WARM))
        began = time.time()
        asyncio.run(generator.busy(concurrency, self.length))
        outcome = generator.outcomes[-1]
        memory, limit = self._memory(began)
        trial = Trial(
            batch, concurrency, round(outcome.goodput, 2), outcome.latency(0.5), outcome.latency(0.99),
            outcome.errors + outcome.limited, memory, limit,
        )  # fmt: skip
        self.trials.append(trial)
        what = f"batch {batch}, " if batch else ""
        self.call.out.note(f"{what}{concurrency} at once: {trial.throughput:g}/s {trial.unsafe(self.target)}".rstrip())
        return trial

    def _memory(self, since: float) -> tuple[int, int]:
        """The most that the copy's replicas used since then, and what one may use, in bytes."""
        replicas = self.client.service_usage(self.copy)
        seen = [int(s.get("memory", 0)) for one in replicas for s in one["items"] if float(s["at"]) >= since]
        return max(seen, default=0), max((int(one["memory_limit"]) for one in replicas), default=0)


def _finish(
    call: Invocation, client: Client, service: Document, trials: list[Trial], chosen: Trial | None, dry_run: bool
) -> None:
    name, spec = service["metadata"]["name"], service["spec"]
    wanted: dict[str, Any] = {}
    if chosen is not None:
        wanted["concurrency"] = chosen.concurrency
        if chosen.batch is not None:
            wanted["batching"] = {**(spec.get("batching") or {}), "max_batch_size": chosen.batch}
    changes = {key: {"from": spec.get(key), "to": value} for key, value in wanted.items() if spec.get(key) != value}
    if changes and not dry_run:
        _write(client, name, wanted)
    if call.out.as_json:
        best = chosen.document() if chosen is not None else None
        document = {"service": name, "trials": [one.document() for one in trials], "chosen": best, "changes": changes}
        call.out.document({**document, "written": bool(changes) and not dry_run})
    else:
        _table(call, trials, chosen)
        for key, change in changes.items():
            call.out.say(f"- {key}: {change['from']}\n+ {key}: {change['to']}")
        call.out.say(_told(name, chosen, bool(changes), dry_run))
    if chosen is None:
        raise WorkloadFailed(
            f"no settings of service {name} are safe: {trials[-1].unsafe() if trials else 'nothing was measured'}",
            remedy="more memory, or a longer --target-p99",
        )


def _told(name: str, chosen: Trial | None, changed: bool, dry_run: bool) -> str:
    if chosen is None:
        return f"{name} stays as it is"
    if not changed:
        return f"{name} has these settings already"
    return f"{name} would be changed (--dry-run)" if dry_run else f"{name} changed"


def _write(client: Client, name: str, wanted: dict[str, Any]) -> None:
    """Into the spec as it is now: somebody may have changed it while we measured."""
    now = client.get(services.KIND, name)
    metadata = {key: now["metadata"][key] for key in ("name", "workspace", "labels") if now["metadata"].get(key)}
    try:
        client.apply([{"kind": services.KIND, "metadata": metadata, "spec": {**now["spec"], **wanted}}])
    except ModelworksError as error:
        error.detail = f"the settings were measured, and could not be written: {error.detail}"
        raise


def _table(call: Invocation, trials: list[Trial], chosen: Trial | None) -> None:
    columns = ("BATCH", "AT ONCE", "GOOD/S", "P50 MS", "P99 MS", "ERRORS", "MEMORY")
    rows = [
        (
            one.batch or "",
            one.concurrency,
            f"{one.throughput:.1f}",
            *("" if value is None else f"{1000 * value:.1f}" for value in (one.p50, one.p99)),
            one.errors or "",
            f"{format_bytes(one.memory)} of {format_bytes(one.limit)}" if one.limit else format_bytes(one.memory),
            "◀" if one == chosen else "",
        )
        for one in trials
    ]
    call.out.table((*columns, ""), rows, right=columns)
