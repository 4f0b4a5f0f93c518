"""`mw service stress`: an open-loop load test of a service, and the settings that follow from it."""

from __future__ import annotations

import asyncio
import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from modelworks.cli.chart import draw, plot
from modelworks.cli.command import Invocation, invocation
from modelworks.cli.problems import ExitCode
from modelworks.kernel.errors import Conflict, Invalid, ModelworksError, NotFound, WorkloadFailed
from modelworks.kernel.quantities import parse_duration
from modelworks.sdk import services
from modelworks.sdk.client import Client, Document
from modelworks.sdk.load import knee as knees
from modelworks.sdk.load import schedule
from modelworks.sdk.load.generator import Generator, Target
from modelworks.sdk.load.outcome import Outcome
from modelworks.sdk.predictor import Predictor
from modelworks.sdk.session import Session
from modelworks.sdk.waiting import status_of

_FIRST_RATE = 8.0
_STEP, _CONSTANT = "10s", "30s"
_LATE = 0.02  # seconds behind the clock: beyond, the generator's own lateness is worth a note
_PASSING = (429, 503)  # of a service that is busy or about to come; everything else would be the same a thousand times


def stress(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="The service's name.")],
    rate: Annotated[float | None, typer.Option(help="This many requests a second.")] = None,
    step: Annotated[str | None, typer.Option(help="FROM:TO:MORE requests a second, such as 10:100:10.")] = None,
    replay: Annotated[
        Path | None, typer.Option(help="JSON lines {at, body, path} or captured requests, a file or folder.")
    ] = None,
    speed: Annotated[float, typer.Option(min=0.01, help="With --replay: so many times as fast.")] = 1.0,
    duration: Annotated[str | None, typer.Option(help="Of each step; default 10s, with --rate 30s.")] = None,
    poisson: Annotated[bool, typer.Option("--poisson", help="At random times; default evenly.")] = False,
    data: Annotated[str | None, typer.Option("--data", "-d", help="The body; @FILE reads a file.")] = None,
    path: Annotated[str, typer.Option(help="Below the endpoint.")] = "",
    method: Annotated[str | None, typer.Option("--method", "-X", help="Default POST with a body, else GET.")] = None,
    content_type: Annotated[str, typer.Option(help="Of the body.")] = "application/json",
    timeout: Annotated[str, typer.Option(help="How long an answer may take.")] = "30s",
    target_p99: Annotated[str | None, typer.Option("--target-p99", help="Above it a rate is too high.")] = None,
    expect: Annotated[float | None, typer.Option(min=0.001, help="Requests a second to plan replicas for.")] = None,
    picture: Annotated[Path | None, typer.Option("--plot", help="Draw it into this PNG file.")] = None,
) -> None:
    """Send requests by the clock, whether answers come or not, and find the rate at which the service gives in.

    Without --rate, --step or --replay the rate doubles until it does. Ctrl-C shows what was measured so far.
    """
    call = invocation(ctx)
    if sum(one is not None for one in (rate, step, replay)) > 1:
        raise Invalid("give one of --rate, --step and --replay")
    if picture is not None and importlib.util.find_spec("matplotlib") is None:
        raise NotFound("--plot needs matplotlib", remedy="pip install 'modelworks[plots]'")
    length = seconds("--duration", duration or (_CONSTANT if rate is not None else _STEP))
    wanted = seconds("--target-p99", target_p99) if target_p99 else None
    recorded = _fit(call, _recording(replay, speed)) if replay is not None else []
    planned = schedule.steps(step, length) if step else schedule.doubling(_FIRST_RATE, length)
    if rate is not None:
        planned = schedule.constant(rate, length)
    client = call.connect()
    target = target_of(client, name, data, path=path, method=method, content_type=content_type)
    probe(client, name, target, recorded[0] if recorded else None)
    generator = Generator(target, seconds("--timeout", timeout))
    rates = "a recording" if recorded else f"{planned[0].rate:g}/s" + (" and more" if len(planned) > 1 else "")
    call.out.note(f"sending {rates} to {name}; Ctrl-C ends it and shows what was measured")
    run = (
        generator.replay(recorded)
        if recorded
        else generator.steps(planned, "poisson" if poisson else "constant", lambda seen: given_in(seen, wanted))
    )
    interrupted = False
    try:
        asyncio.run(run)
    except KeyboardInterrupt:
        interrupted = True
    outcomes = [one for one in generator.outcomes if one.sent]
    if not outcomes:
        raise typer.Exit(ExitCode.INTERRUPTED)
    result = Result(name, outcomes, ready_replicas(client.get(services.KIND, name)), wanted, expect)
    result.tell(call)
    if picture is not None:
        plot(outcomes, result.knee, name, picture)
        call.out.note(f"drawn into {picture}")
    if interrupted:
        raise typer.Exit(ExitCode.INTERRUPTED)
    if not any(one.good for one in outcomes):
        raise WorkloadFailed(f"service {name} answered no request well", remedy=f"mw service log {name}")


def given_in(outcomes: Sequence[Outcome], target: float | None) -> bool:
    """Two strained steps in a row: what comes after is only worse."""
    return len(outcomes) > 1 and all(knees.strained(one, outcomes[0], target) for one in outcomes[-2:])


@dataclass
class Result:
    """What was measured, and how it is told."""

    name: str
    outcomes: list[Outcome]
    replicas: int
    target: float | None = None
    expected: float | None = None

    def __post_init__(self) -> None:
        self.knee = knees.find(self.outcomes, self.target)
        self.advice = knees.advise(self.outcomes, self.knee, self.replicas, self.expected)

    def document(self) -> dict[str, Any]:
        return {
            "service": self.name,
            "replicas": self.replicas,
            "steps": [one.document() for one in self.outcomes],
            "knee": {
                "rate": self.knee.rate,
                "reached": self.knee.reached,
                "why": self.knee.why,
                "capacity": round(self.knee.capacity, 2),
            },
            "advice": self.advice.document() if self.advice is not None else None,
        }

    def tell(self, call: Invocation) -> None:
        late = max((value for one in self.outcomes for value in one.late), default=0.0)
        if late > _LATE:
            call.out.note(
                f"requests were sent up to {1000 * late:.0f} ms late: this machine is busy; latencies include it"
            )
        if call.out.as_json:
            call.out.document(self.document())
            return
        draw(call.out, self.outcomes, self.knee)
        for why, count in sorted(self._failures().items(), key=lambda one: -one[1])[:5]:
            call.out.say(f"failed: {count} × {why}")
        call.out.say(self._knee())
        if self.advice is not None:
            call.out.say(self._advice())

    def _failures(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for one in self.outcomes:
            for why, count in one.failures.items():
                found[why] = found.get(why, 0) + count
        return found

    def _knee(self) -> str:
        by = "1 replica" if self.replicas == 1 else f"{self.replicas} replicas"
        if self.knee.rate is None:
            return f"knee: below the lowest rate; {self.knee.why}"
        if not self.knee.reached:
            return f"knee: not reached; {self.knee.rate:g}/s were sustained by {by}"
        return f"knee: {self.knee.rate:g}/s by {by}; {self.knee.why}"

    def _advice(self) -> str:
        assert self.advice is not None
        planned = ", ".join(f"{count} for {rate}/s" for rate, count in self.advice.replicas.items())
        # A load that the service hardly felt tells how many it holds at once no better than an empty one.
        tried = "" if self.knee.reached else ", as far as it was tried (a higher rate finds the knee)"
        return "\n".join(
            (
                f"recommended{tried}:",
                *((f"  concurrency: {self.advice.concurrency}",) if self.knee.reached else ()),
                f"  queue: {{size: {self.advice.queue_size}}}",
                f"  autoscaling: {{metrics: {{qps: {self.advice.qps:g}}}}}",
                f"  replicas: {planned}",
            )
        )


def target_of(client: Client, name: str, data: str | None, **options: Any) -> Target:
    """A service of this platform: there is no way to name another host. Raises Invalid, NotFound."""
    body = read_body(data)
    method = (options.pop("method", None) or ("GET" if body is None else "POST")).upper()
    return Target(client.service_endpoint(name), client.service_token(name), body, method=method, **options)


def probe(client: Client, name: str, target: Target, recorded: schedule.Recorded | None = None) -> None:
    """One request before thousands. Raises WorkloadFailed when the service refuses what would be sent."""
    if client.get(services.KIND, name)["spec"].get("stopped"):
        raise Conflict(f"the service {name} is stopped", remedy=f"mw service start {name} --wait")
    one = recorded or schedule.Recorded(0.0, target.body, target.path, target.method, target.content_type)
    headers = {"Content-Type": one.content_type or target.content_type} if one.body is not None else {}
    predictor = Predictor(name, session=Session.of(client))
    answer = predictor.raw_predict(one.body, one.path or None, headers, one.method, 60.0)
    if answer.status_code >= 400 and answer.status_code not in _PASSING:
        said = answer.content[:300].decode(errors="replace")
        raise WorkloadFailed(
            f"service {name} answers this request with {answer.status_code}: {said}",
            remedy="give a request that it takes by --data, --path and --method",
        )
    if answer.status_code == 503 and not ready_replicas(client.get(services.KIND, name)):
        raise WorkloadFailed(f"service {name} has no replica that is ready", remedy=f"mw service get {name}")


def ready_replicas(service: Document) -> int:
    return sum(1 for one in status_of(service).get("replicas") or () if one.get("ready"))


def read_body(data: str | None) -> bytes | None:
    """``@FILE`` is its contents, everything else itself. Raises Invalid."""
    if data is None or not data.startswith("@"):
        return None if data is None else data.encode()
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise Invalid(f"{data[1:]} cannot be read: {error.strerror}") from None


def seconds(option: str, text: str) -> float:
    """A positive duration. Raises Invalid naming the option."""
    try:
        found = parse_duration(text)
    except ValueError as error:
        raise Invalid(f"{option}: {error}") from None
    if found <= 0:
        raise Invalid(f"{option}: it must be longer than nothing")
    return found


def _fit(call: Invocation, recorded: list[schedule.Recorded]) -> list[schedule.Recorded]:
    """Without the captured requests that are not to be sent again. Raises Invalid when there are no others."""
    for why, count in sorted(Counter(one.unfit for one in recorded if one.unfit).items()):
        call.out.note(f"not sent: {count} requests that were {why}")
    found = [one for one in recorded if not one.unfit]
    if not found:
        raise Invalid(
            "none of the captured requests can be sent again",
            remedy="capture requests that the service takes, with a capture.max_body that holds them",
        )
    return [replace(one, at=one.at - found[0].at) for one in found]


def _recording(path: Path, speed: float) -> list[schedule.Recorded]:
    """Of a file, or of the ``.jsonl`` files of a folder. Raises Invalid naming the file."""
    files = sorted(path.rglob("*.jsonl")) if path.is_dir() else [path]
    if not files:
        raise Invalid(f"{path} holds no .jsonl file")
    lines: list[str] = []
    for file in files:
        try:
            found = file.read_text("utf-8").split("\n")
            schedule.recording(found)
        except (OSError, UnicodeDecodeError) as error:
            said = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise Invalid(f"{file} cannot be read: {said}") from None
        except ModelworksError as error:
            raise Invalid(f"{file}: {error.detail}") from None
        lines += found
    return schedule.recording(lines, speed)
