"""With --json every command prints one JSON document, or one a line where it is a stream, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.cli_platform import Mw, fresh

from modelworks.cli.app import COMMANDS, load

JOB = "kind: TrainingJob\nmetadata: {name: one}\nspec: {command: echo hello, instance_type: local.tiny}\n"
AGAIN = JOB.replace("one", "two")
SERVICE = (
    "kind: Service\nmetadata: {name: web}\nspec: {processor: command, command: 'python -m http.server $PORT',"
    " instance_type: local.tiny, readiness: {path: /}}\n"
)
SWEEP = (
    "kind: Sweep\nmetadata: {name: lines}\nspec: {job: {command: sleep 60, instance_type: local.tiny,"
    " grace_period: 0s}, parameters: {x: [1, 2]}, objective: {metric: loss}}\n"
)
# In an order in which each finds what it needs; {x} is a folder with the files of the fixture.
DOCUMENTS = """
status | apply -f {x}/one.yaml | diff -f {x}/one.yaml | job wait one | job submit -f {x}/two.yaml --follow
job run -f {x}/one.yaml | job run --local -f {x}/one.yaml --directory {x}/out
job validate -f {x}/one.yaml | job estimate -f {x}/one.yaml | job list | job get one | job compare one two
job metrics one | get jobs | get job one | events | events job one | cost | cost --by day
bucket create files | bucket upload {x}/one.yaml s3://files/ | bucket ls s3://files/ | bucket list
bucket download s3://files/one.yaml {x}/back.yaml | model register m --uri s3://files/ | model alias m:1 prod
model list | model get m | model get m:1 | model alias m prod --remove | model delete m
volume create v | volume list | volume delete v | environment create e -p six | environment list | environment delete e
quota create q --instances local.tiny=9 --spend 5 --per day | quota list | quota get q | quota delete q | job queue
node list
instance-type list | key create k | key list | key revoke k
service create -f {x}/web.yaml --wait | service list | service get web | service token web | service rotate-token web
service call web --path / | service explain web | eas list | eas ls | eas list-services
eas desc web | eas describe web | service update web --replicas 2 --wait | service revisions web
service rollback web --to 1
service stop web --wait | service start web --wait | eas stop web | eas start web | service delete web
eas create {x}/web.yaml | eas modify web -s {x}/web.yaml | eas update web --replicas 1 | eas version web 1
eas delete web
apply -f {x}/sweep.yaml | sweep list | sweep get lines | sweep trials lines | sweep plot lines | sweep stop lines
sweep delete lines
bucket rm s3://files/one.yaml | bucket delete files | job delete one | delete job two
"""
STREAMS = ["job log one", "job log one --follow", "logs one", "logs job/one"]


@pytest.fixture(scope="module")
def mw() -> Iterator[Mw]:
    with fresh() as one:
        yield one


def commands() -> list[str]:
    return [c.strip() for c in DOCUMENTS.replace("\n", "|").split("|") if c.strip()]


def test_each_prints_one_document(mw: Mw, tmp_path: Path) -> None:
    for name, text in (("one", JOB), ("two", AGAIN), ("web", SERVICE), ("sweep", SWEEP)):
        (tmp_path / f"{name}.yaml").write_text(text)
    wrong: dict[str, Any] = {}
    for command in commands():
        if command.startswith("bucket rm"):  # the last ones delete what these read
            check_streams(mw, wrong)
        done = mw(*command.format(x=tmp_path).split(), "--json")
        try:
            json.loads(done.stdout)
        except ValueError:
            wrong[command] = (done.returncode, done.stdout[:500], done.stderr[-500:])
    assert wrong == {}


def check_streams(mw: Mw, wrong: dict[str, Any]) -> None:
    for command in STREAMS:
        done = mw(*command.split(), "--json")
        if [json.loads(line) for line in done.stdout.splitlines()] != [{"line": "hello"}]:
            wrong[command] = (done.returncode, done.stdout[:500], done.stderr[-500:])


def test_none_is_forgotten() -> None:
    """A new command is added to the list above."""
    elsewhere = {"up", "down", "quickstart", "login", "logout", "job cancel", "service log", "eas logs"}
    elsewhere |= {
        "job preempt",
        "job stacks",
        "model compile",
        "node cordon",
        "node drain",
        "node get",
        "node uncordon",
        "service profile",
        "sweep best",
        "sweep importance",
        "sweep wait",
        "service resume",
        "service stress",
        "service tasks",
        "tracking ui",
        "tracking url",
    }  # tests of their own
    listed = {tuple(c.split()) for c in (*commands(), *STREAMS)}
    missing = set()
    for name in COMMANDS:
        verbs = getattr(load(name), "commands", {})
        for words in [(name, verb) for verb in verbs] or [(name,)]:
            if not any(c[: len(words)] == words for c in listed):
                missing.add(" ".join(words))
    assert missing <= elsewhere
