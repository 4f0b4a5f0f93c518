"""`mw quickstart`: from a platform that is not there to an endpoint that answers, step by step."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Annotated

import typer

from modelworks.cli.command import Invocation, invocation
from modelworks.cli.output import Output
from modelworks.cli.quickstart import digits, steps
from modelworks.cli.quickstart.ask import ask
from modelworks.cli.quickstart.platform import reach
from modelworks.cli.quickstart.report import print_report
from modelworks.cli.transfer import bar
from modelworks.sdk.predictor import Predictor
from modelworks.sdk.session import Session
from modelworks.sdk.waiting import status_of


class Steps:
    """Numbers the steps for people."""

    def __init__(self, out: Output, quiet: bool) -> None:
        self._out, self._quiet, self._number = out, quiet, 0

    def begin(self, text: str) -> None:
        self._number += 1
        self.say(f"{self._number}/5 {text}")

    def say(self, text: str) -> None:
        if not self._quiet:
            self._out.say(text)


def quickstart(
    ctx: typer.Context,
    keep_quiet: Annotated[bool, typer.Option("--keep-quiet", help="Print the result alone.")] = False,
) -> None:
    """Train, register, deploy and call a model, start to end. A second run reuses what is there.

    With --json the last line is {accuracy, p50_ms, p99_ms, endpoint, token, seconds, cost}.
    """
    call = invocation(ctx)
    began = time.monotonic()
    training, held_out = digits.split(digits.load())
    progress = Steps(call.out, keep_quiet)

    progress.begin("platform")
    client, started = reach(call.workspace)
    progress.say(f"    {'started' if started else 'is running'}: {client.url}")

    progress.begin("data: the UCI handwritten digits")
    action = steps.upload_data(call, client, training)
    progress.say(f"    {len(training)} images {action} at s3://digits/train/, {len(held_out)} held out")

    progress.begin("training job")
    job, reused = steps.train(_quiet(call) if keep_quiet else call, client)
    told = "has run before" if reused else status_of(job).get("message") or "succeeded"
    progress.say(f"    job {job['metadata']['name']}: {told}")

    progress.begin("model")
    version, reused = steps.register(client, job)
    progress.say(f"    {steps.NAME}:{version['version']} {'is registered' if reused else 'registered'}")

    progress.begin("service")
    _, action = steps.deploy(call, client, int(version["version"]))
    progress.say(f"    {steps.NAME} {action}; asking it about {len(held_out)} images")
    predictor = Predictor(steps.NAME, session=Session.of(client))
    with bar("requests", len(held_out)) as tell:
        answers = ask(predictor, held_out, tell)

    cost, seconds = client.cost(), time.monotonic() - began
    if call.out.as_json:
        call.out.line(
            {
                "accuracy": round(answers.accuracy, 4),
                "p50_ms": round(answers.p50_ms, 3),
                "p99_ms": round(answers.p99_ms, 3),
                "endpoint": predictor.endpoint,
                "token": predictor.access_token,
                "seconds": round(seconds, 2),
                "cost": cost["total"],
            }
        )
    else:
        print_report(call.out, answers, predictor.endpoint, predictor.access_token, held_out[0], cost, seconds)


def _quiet(call: Invocation) -> Invocation:
    """The job's log goes to stderr then."""
    return replace(call, out=Output(as_json=True))
