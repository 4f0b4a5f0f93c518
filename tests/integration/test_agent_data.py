"""Inputs, outputs and logs of runs, at a real object store."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterator

import pytest
from tests.agents import observe, poll, python, run_spec, wait_ended, wait_for, wait_log

from modelworks.agent.inprocess import InProcessAgent
from modelworks.home import Home
from modelworks.kernel.run import FINISHED, Access, Input, Output, RunPhase, RunReason
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri
from modelworks.runtime import sandbox
from modelworks.runtime.local import kill_all


@pytest.fixture
def objects(store: Credentials) -> ObjectClient:
    return ObjectClient(store)


@pytest.fixture(params=["sandbox", "plain"])
def agent(
    request: pytest.FixtureRequest, home: Home, agent_store: Credentials, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InProcessAgent]:
    if request.param == "plain":
        monkeypatch.setenv("MW_ISOLATION", "off")
    sandbox.probe.cache_clear()
    home.secrets.mkdir()
    (home.secrets / "agent.json").write_text(agent_store.model_dump_json())
    with InProcessAgent(home) as running:
        yield running
        kill_all(home, grace=0.0)
    sandbox.probe.cache_clear()


def test_a_folder_appears_at_its_paths(agent: InProcessAgent, objects: ObjectClient, bucket: str) -> None:
    folder = ObjectUri(bucket, "train/")
    objects.put(folder / "a.txt", b"one")
    objects.put(folder / "deep/b.txt", b"two")
    item = Input(channel="data", uri=str(folder), paths=("/mnt/data", "/ml/input/data/data"), env="DATA")
    command = 'cat /mnt/data/a.txt /mnt/data/deep/b.txt "$DATA/a.txt" "$MW_INPUT_DATA/a.txt" /ml/input/data/data/a.txt'
    run = run_spec(0, "sh", "-c", command, inputs=(item,))
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert agent.log(run.key) == b"onetwooneoneone", seen


def test_inputs_cannot_be_written(agent: InProcessAgent, objects: ObjectClient, bucket: str) -> None:
    if not agent.node().isolation:
        pytest.skip("needs the sandbox")
    objects.put(ObjectUri(bucket, "train/a.txt"), b"one")
    item = Input(channel="data", uri=f"s3://{bucket}/train/", paths=("/mnt/data",))
    run = run_spec(0, "sh", "-c", "echo x > /mnt/data/a.txt || echo refused", inputs=(item,))
    agent.ensure(run)
    wait_ended(agent, run.key)
    assert b"refused" in agent.log(run.key)


def test_one_file_and_an_archive(agent: InProcessAgent, objects: ObjectClient, bucket: str) -> None:
    objects.put(ObjectUri(bucket, "table.csv"), b"a,b\n")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        program = (
            b"import os; open('beside.txt', 'w').write('x'); print(open(os.environ['DATA'] + '/table.csv').read())"
        )
        entry = tarfile.TarInfo("train.py")
        entry.size = len(program)
        tar.addfile(entry, io.BytesIO(program))
    objects.put(ObjectUri(bucket, "code.tar.gz"), packed.getvalue())
    inputs = (
        Input(channel="data", uri=f"s3://{bucket}/table.csv", paths=("/mnt/data",), env="DATA"),
        Input(channel="usercode", uri=f"s3://{bucket}/code.tar.gz", paths=("/ml/usercode",), unpack=True),
    )
    run = run_spec(0, "python", "train.py", inputs=inputs)
    agent.ensure(run)
    wait_ended(agent, run.key)
    assert agent.log(run.key) == b"a,b\n\n"


def test_an_archive_cannot_reach_outside(agent: InProcessAgent, objects: ObjectClient, bucket: str) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        entry = tarfile.TarInfo("../../evil")
        entry.size = 1
        tar.addfile(entry, io.BytesIO(b"x"))
    objects.put(ObjectUri(bucket, "code.tar.gz"), packed.getvalue())
    item = Input(channel="usercode", uri=f"s3://{bucket}/code.tar.gz", paths=("/ml/usercode",), unpack=True)
    run = run_spec(0, "true", inputs=(item,))
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert seen.reason is RunReason.INPUT_MISSING
    assert "cannot be unpacked" in seen.message


def test_a_missing_input_is_named(agent: InProcessAgent, bucket: str) -> None:
    item = Input(channel="data", uri=f"s3://{bucket}/nowhere/", paths=("/mnt/data",))
    run = run_spec(0, "true", inputs=(item,))
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert (seen.phase, seen.reason, seen.exit_code) == (RunPhase.EXITED, RunReason.INPUT_MISSING, None)
    assert f"s3://{bucket}/nowhere/" in seen.message


def test_the_cache_is_hit_and_follows_changes(
    agent: InProcessAgent, objects: ObjectClient, bucket: str, home: Home
) -> None:
    where = ObjectUri(bucket, "train/a.txt")
    item = Input(channel="data", uri=f"s3://{bucket}/train/", paths=("/mnt/data",), env="DATA")
    logs = []
    for number, content in enumerate((b"one", b"one", b"two")):
        if number != 1:
            objects.put(where, content)
        run = run_spec(number, "sh", "-c", 'cat "$DATA/a.txt"', inputs=(item,))
        agent.ensure(run)
        wait_ended(agent, run.key)
        logs.append(agent.log(run.key))
    assert logs == [b"one", b"one", b"two"]
    assert len(list((home.agent / "cache").glob("*/size"))) == 2


def test_outputs_are_committed_by_a_manifest(agent: InProcessAgent, objects: ObjectClient, bucket: str) -> None:
    output = Output(name="model", uri=f"s3://{bucket}/out/", paths=("/mnt/output", "/ml/output/model"))
    command = (
        'mkdir "$MW_OUTPUT_DIR/sub"; printf model > "$MW_OUTPUT_DIR/model.bin"; printf x > /mnt/output/sub/y; echo ok'
    )
    run = run_spec(0, "sh", "-c", command, outputs=(output,), log_uri=f"s3://{bucket}/log/")
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert seen.reason is RunReason.COMPLETED, seen
    manifest = json.loads(objects.get(ObjectUri(bucket, "out/.manifest.json")))
    files = {file["path"]: file for file in manifest["files"]}
    assert set(files) == {"model.bin", "sub/y"}
    assert files["model.bin"]["sha256"] == hashlib.sha256(b"model").hexdigest()
    assert (manifest["key"], manifest["attempt"]) == (run.key, "a1")
    assert seen.outputs == {
        "model": {"uri": f"s3://{bucket}/out/", "digest": manifest["digest"], "size": 6, "files": 2}
    }
    assert objects.get(ObjectUri(bucket, "out/sub/y")) == b"x"
    assert objects.get(ObjectUri(bucket, "log/0000000000000000.log")) == b"ok\n"


def test_a_failed_run_commits_nothing(agent: InProcessAgent, objects: ObjectClient, bucket: str) -> None:
    output = Output(name="model", uri=f"s3://{bucket}/out/", paths=("/mnt/output",))
    run = run_spec(0, "sh", "-c", 'echo half > "$MW_OUTPUT_DIR/model.bin"; exit 1', outputs=(output,))
    agent.ensure(run)
    assert wait_ended(agent, run.key).outputs == {}
    assert objects.exists(ObjectUri(bucket, "out/model.bin"))
    assert not objects.exists(ObjectUri(bucket, "out/.manifest.json"))


@pytest.mark.parametrize(("reason", "committed"), [("Preempted", False), ("Cancelled", False), (FINISHED, True)])
def test_who_obeys_a_stop_commits_only_what_was_done(
    agent: InProcessAgent, objects: ObjectClient, bucket: str, reason: str, committed: bool
) -> None:
    output = Output(name="model", uri=f"s3://{bucket}/out/", paths=("/mnt/output",))
    program = """
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
pathlib.Path(os.environ["MW_OUTPUT_DIR"], "model.bin").write_text("half")
print("working", flush=True)
time.sleep(600)
"""
    run = python(0, program, outputs=(output,))
    agent.ensure(run)
    wait_log(agent, run.key, b"working")
    agent.stop(run.key, 60.0, reason)
    seen = wait_ended(agent, run.key)
    assert (seen.exit_code, seen.reason is RunReason.COMPLETED) == (0, False)
    assert objects.exists(ObjectUri(bucket, "out/model.bin"))
    assert objects.exists(ObjectUri(bucket, "out/.manifest.json")) is committed
    assert bool(seen.outputs) is committed


def test_an_output_begins_with_what_earlier_runs_left(
    agent: InProcessAgent, objects: ObjectClient, bucket: str
) -> None:
    for attempt, name, text in (("a1", "old", b"1"), ("a1", "sub/both", b"1"), ("a2", "sub/both", b"2")):
        objects.put(ObjectUri(bucket, f"checkpoints/{attempt}/{name}"), text)
    output = Output(
        name="checkpoints",
        uri=f"s3://{bucket}/checkpoints/a4/",
        paths=("/ml/output/checkpoints",),
        commit=False,
        env="MW_CHECKPOINT_DIR",
        # The third never came to write any.
        restore=tuple(f"s3://{bucket}/checkpoints/a{n}/" for n in (3, 2, 1)),
    )
    command = 'cd "$MW_CHECKPOINT_DIR"; cat old sub/both; echo 4 > sub/both; rm old; echo x > new'
    run = run_spec(0, "sh", "-c", command, outputs=(output,))
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert (seen.reason, agent.log(run.key)) == (RunReason.COMPLETED, b"12")
    assert {item.key.split("/", 2)[2] for item in objects.list(ObjectUri(bucket, "checkpoints/a4/"))} == {
        "new",
        "sub/both",
    }


def test_links_do_not_lead_us_out(agent: InProcessAgent, objects: ObjectClient, bucket: str, home: Home) -> None:
    secret = home.secrets / "agent.json"
    output = Output(name="model", uri=f"s3://{bucket}/out/", paths=("/mnt/output",))
    command = f'cd "$MW_OUTPUT_DIR"; ln -s {secret} stolen; ln -s {home.secrets} folder; echo good > a; ln -s a b'
    run = run_spec(0, "sh", "-c", command, outputs=(output,))
    agent.ensure(run)
    assert wait_ended(agent, run.key).outputs["model"]["files"] == 2
    keys = {info.key for info in objects.list(ObjectUri(bucket, "out/"))}
    assert keys == {"out/a", "out/b", "out/.manifest.json"}


def test_log_and_outputs_are_shipped_meanwhile(agent: InProcessAgent, objects: ObjectClient, bucket: str) -> None:
    output = Output(name="checkpoints", uri=f"s3://{bucket}/ck/", paths=("/ml/output/checkpoints",), commit=False)
    command = 'echo 1 > "$MW_OUTPUT_DIR/step"; echo working; sleep 600'
    run = run_spec(0, "sh", "-c", command, outputs=(output,), log_uri=f"s3://{bucket}/log/")
    agent.ensure(run)
    poll(lambda: objects.exists(ObjectUri(bucket, "log/0000000000000000.log")))
    poll(lambda: objects.exists(ObjectUri(bucket, "ck/step")))
    assert observe(agent, run.key).phase is RunPhase.RUNNING
    agent.stop(run.key, 5.0)
    wait_ended(agent, run.key)
    assert not objects.exists(ObjectUri(bucket, "ck/.manifest.json"))


def test_a_run_waits_for_the_store(agent: InProcessAgent, bucket: str, home: Home, agent_store: Credentials) -> None:
    (home.secrets / "agent.json").unlink()
    output = Output(name="model", uri=f"s3://{bucket}/out/", paths=("/mnt/output",))
    run = run_spec(0, "sh", "-c", 'echo x > "$MW_OUTPUT_DIR/model.bin"', outputs=(output,))
    agent.ensure(run)
    waiting = wait_for(agent, run.key, lambda seen: seen.reason is RunReason.STORE_UNREACHABLE)
    assert waiting.phase is RunPhase.FINALIZING
    assert "waiting for the object store" in waiting.message
    (home.secrets / "agent.json").write_text(agent_store.model_dump_json())
    seen = wait_ended(agent, run.key)
    assert (seen.reason, seen.outputs["model"]["files"]) == (RunReason.COMPLETED, 1)


def test_keys_are_given_on_request_and_reach_no_further(
    agent: InProcessAgent, objects: ObjectClient, bucket: str
) -> None:
    objects.put(ObjectUri(bucket, "mine/a"), b"1")
    objects.put(ObjectUri(bucket, "yours/a"), b"2")
    program = (
        "import os, json, boto3\n"
        "s3 = boto3.client('s3')\n"
        f"print(s3.get_object(Bucket='{bucket}', Key='mine/a')['Body'].read())\n"
        "try:\n"
        f"    s3.get_object(Bucket='{bucket}', Key='yours/a')\n"
        "except Exception as error:\n"
        "    print(error.response['Error']['Code'])\n"
        "print(json.load(open(os.environ['MW_CREDENTIALS_FILE']))['Version'])\n"
    )
    run = python(0, program, access=Access(read=(f"s3://{bucket}/mine/",), expose=True))
    agent.ensure(run)
    wait_ended(agent, run.key)
    assert agent.log(run.key).split() == [b"b'1'", b"AccessDenied", b"1"]


def test_without_asking_a_run_has_no_keys(agent: InProcessAgent, bucket: str) -> None:
    run = run_spec(0, "sh", "-c", "env | grep AWS_ || echo none", access=Access(read=(f"s3://{bucket}/mine/",)))
    agent.ensure(run)
    wait_log(agent, run.key, b"none")
    wait_ended(agent, run.key)
