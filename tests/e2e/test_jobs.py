"""Jobs as a user meets them, through `mw` on the real platform: what they are given, how they end, what stays."""

from __future__ import annotations

import contextlib
import json
import random
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from sqlalchemy import create_engine, func, select
from tests import leftovers
from tests.agents import poll
from tests.cli_platform import Mw

from modelworks.db.tables import claims
from modelworks.kernel.errors import NotFound, Unauthorized
from modelworks.kernel.run import RunKey
from modelworks.sdk import jobs
from modelworks.sdk.client import Client
from modelworks.sdk.waiting import phase_of

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("jobs")]
WORKLOAD_FAILED = 6


def job(name: str, command: object, **spec: Any) -> str:
    size = {} if "resources" in spec else {"instance_type": "local.tiny"}
    return yaml.safe_dump(
        {"kind": "TrainingJob", "metadata": {"name": name}, "spec": {"command": command, **size, **spec}}
    )


def python(name: str, program: str, **spec: Any) -> str:
    return job(name, ["python", "-c", textwrap.dedent(program)], **spec)


def ended(mw: Mw, name: str) -> dict[str, Any]:
    """The status of a job that has ended, and left nothing on the machine but its directory."""
    document = json.loads(mw.ok("get", "job", name, "--json"))
    assert phase_of(document) in ("Succeeded", "Failed", "Cancelled")
    assert leftovers.processes(document["metadata"]["uid"]) == []
    return dict(document["status"])


@pytest.mark.parametrize(
    ("name", "manifest", "code", "message"),
    [
        ("missing", job("missing", "no-such-program --flag"), 127, "no-such-program: not found"),
        ("absent", job("absent", ["no-such-program"]), 127, "command not found: no-such-program"),
        (
            "crash",
            python("crash", "raise ValueError('no column named price')"),
            1,
            "exit code 1: ValueError: no column named price",
        ),
        ("abort", job("abort", "kill -SEGV $$"), 139, "killed by SIGSEGV"),
        (
            "greedy",
            python(
                "greedy",
                """
                import time
                held = []
                while True:
                    held.append(bytearray(8 << 20))
                    time.sleep(0.02)
                """,
                resources={"cpu": "250m", "memory": "96Mi"},
            ),
            137,
            "of 96Mi",
        ),
        ("slow", job("slow", "echo begun; sleep 600", time_limit="1s", grace_period="1s"), 143, "time limit of 1s"),
    ],
    ids=["missing", "absent", "crash", "abort", "greedy", "slow"],
)
def test_a_job_that_fails_says_why(mw: Mw, name: str, manifest: str, code: int, message: str) -> None:
    done = mw("job", "submit", "-f", "-", "--follow", stdin=manifest)
    assert done.returncode == WORKLOAD_FAILED, done.stderr
    assert message in done.stderr
    assert f"mw job log {name}" in done.stderr
    status = ended(mw, name)
    assert (status["phase"], status["attempts"][0]["exit_code"]) == ("Failed", code), status
    assert message in status["message"]


def test_a_flood_of_output_arrives_whole(mw: Mw) -> None:
    program = "import sys\nline = b'x' * 1023 + b'\\n'\nfor _ in range(100 * 1024): sys.stdout.buffer.write(line)"
    done = mw("job", "submit", "-f", "-", "--follow", stdin=python("flood", program))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("x" * 1023 + "\n") == 100 * 1024
    assert ended(mw, "flood")["phase"] == "Succeeded"


def test_a_job_that_ignores_sigterm_is_cancelled_all_the_same(mw: Mw) -> None:
    program = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
    mw.ok("job", "submit", "-f", "-", stdin=python("deaf", program, grace_period="0.5s"))
    poll(lambda: "up" in mw.ok("job", "log", "deaf"))
    mw.ok("job", "cancel", "deaf")
    done = mw("job", "wait", "deaf")
    assert (done.returncode, "cancelled" in done.stderr) == (WORKLOAD_FAILED, True)
    status = ended(mw, "deaf")
    assert (status["phase"], status["attempts"][0]["exit_code"]) == ("Cancelled", 137)


def test_what_forks_twice_ends_with_its_job(mw: Mw) -> None:
    program = """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                print("hidden", flush=True)
                time.sleep(600)
            os._exit(0)
        os.wait()
        time.sleep(0.3)
        """
    done = mw("job", "submit", "-f", "-", "--follow", stdin=python("forks", program))
    assert done.returncode == 0, done.stderr
    assert "hidden" in done.stdout
    assert ended(mw, "forks")["phase"] == "Succeeded"


def test_a_second_submit_changes_nothing_and_says_so(mw: Mw) -> None:
    text = job("again", "echo once")
    assert "TrainingJob/again created" in mw.ok("job", "submit", "-f", "-", "--wait", stdin=text)
    again = mw("job", "submit", "-f", "-", stdin=text)
    assert (again.returncode, again.stdout) == (0, "TrainingJob/again unchanged\n")
    assert "job again has ended before (Succeeded) and does not run again" in again.stderr
    assert len(ended(mw, "again")["attempts"]) == 1


def test_retries_begin_another_attempt(mw: Mw) -> None:
    text = job("second", 'echo "this is $MW_ATTEMPT"; test $MW_ATTEMPT -eq 2 || exit 9', retries=2)
    done = mw("job", "submit", "-f", "-", "--follow", stdin=text)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if "this is" in line] == ["this is 1", "this is 2"]
    assert [attempt["exit_code"] for attempt in ended(mw, "second")["attempts"]] == [9, 0]
    assert mw.ok("job", "log", "second", "--attempt", "1") == "this is 1\n"


def test_replicas_are_told_their_ranks(mw: Mw) -> None:
    program = "import json, os; print(json.dumps(dict(os.environ)))"
    mw.ok("job", "submit", "-f", "-", "--wait", stdin=python("ranks", program, replicas=2))
    first, second = (json.loads(mw.ok("job", "log", "ranks", "--replica", str(rank))) for rank in (0, 1))
    own = {"RANK", "PET_NODE_RANK", "PET_LOCAL_ADDR", "MW_ROLE_INDEX", "MW_RUN", "HOSTNAME"}
    assert {name for name in first if first[name] != second[name]} <= own
    assert [(env["RANK"], env["PET_NODE_RANK"]) for env in (first, second)] == [("0", "0"), ("1", "1")]
    shared = ("WORLD_SIZE", "PET_NNODES", "NPROC_PER_NODE", "MASTER_ADDR", "MW_JOB", "MW_ATTEMPT")
    assert [first[name] for name in shared] == ["2", "2", "1", "127.0.0.1", "ranks", "1"]
    assert first["MASTER_PORT"] == first["PET_MASTER_PORT"]
    assert len(ended(mw, "ranks")["replicas"]) == 2


def test_one_replica_that_fails_ends_the_other(mw: Mw) -> None:
    text = job("gang", "test $RANK -eq 0 && sleep 600 || exit 5", replicas=2, grace_period="1s")
    done = mw("job", "submit", "-f", "-", "--wait", stdin=text)
    assert (done.returncode, "replica 1: exit code 5" in done.stderr) == (WORKLOAD_FAILED, True), done.stderr
    assert ended(mw, "gang")["phase"] == "Failed"


def test_a_volume_outlives_its_jobs(mw: Mw) -> None:
    volume = "kind: Volume\nmetadata: {name: kept}\nspec: {size: 1Gi}\n"
    mounts = [{"name": "kept", "mount_path": "/mnt/kept"}]
    write = job("writes", "echo kept > /mnt/kept/file", volumes=mounts)
    mw.ok("job", "submit", "-f", "-", "--wait", stdin=f"{volume}---\n{write}")
    told = mw.ok("job", "submit", "-f", "-", "--follow", stdin=job("reads", "cat /mnt/kept/file", volumes=mounts))
    assert "kept\n" in told
    mounts[0] |= {"read_only": True}
    refused = mw("job", "submit", "-f", "-", "--follow", stdin=job("not", "echo x > /mnt/kept/file", volumes=mounts))
    assert refused.returncode == WORKLOAD_FAILED
    assert "Read-only" in refused.stderr


DATA = """
import json, os, pathlib, sys
def text(path): return pathlib.Path(path).read_text()
print(json.dumps({
    "arguments": sys.argv[1:],
    "folder": sorted(str(p.relative_to("/mnt/data")) for p in pathlib.Path("/mnt/data").rglob("*") if p.is_file()),
    "alias": text("/ml/input/data/data/a.txt"), "variable": text(os.environ["MW_INPUT_DATA"] + "/sub/b.txt"),
    "file": text("/mnt/one/b.txt"),
    "hyperparameters": json.loads(text("/ml/input/config/hyperparameters.json")),
    "pai": [os.environ["PAI_HPS_LEARNING_RATE"], os.environ["PAI_USER_ARGS"]],
    "own": os.environ["WHERE"],
}), flush=True)
out = pathlib.Path(os.environ["MW_OUTPUT_DIR"])
(out / "sub").mkdir()
(out / "sub" / "model.txt").write_text("trained")
pathlib.Path("/ml/output/model/top.txt").write_text("too")
pathlib.Path("/ml/output/tensorboard/events").write_text("seen")
"""


def test_inputs_and_outputs(mw: Mw, tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "a.txt").write_text("a")
    (tmp_path / "in" / "sub" / "b.txt").write_text("b")
    mw.ok("bucket", "create", "files")
    mw.ok("bucket", "upload", str(tmp_path / "in"), "s3://files/in/")
    text = job(
        "data",
        ["python", "-c", DATA, "--job=$(MW_JOB)", "$(WHERE)", "$$(LITERAL)"],
        env={"WHERE": "in $(MW_OUTPUT_DIR)"},
        inputs={"data": "oss://files/in/", "one": "s3://files/in/sub/b.txt"},
        output="oss://files/out/",
        hyperparameters={"learning_rate": 0.1, "deep": True},
    )
    lines = mw.ok("job", "submit", "-f", "-", "--follow", stdin=text).splitlines()
    assert json.loads(next(line for line in lines if line.startswith("{"))) == {
        "arguments": ["--job=data", "in /mnt/output", "$(LITERAL)"],
        "folder": ["a.txt", "sub/b.txt"],
        "alias": "a",
        "variable": "b",
        "file": "b",
        "hyperparameters": {"learning_rate": "0.1", "deep": "true"},
        "pai": ["0.1", "--deep true --learning_rate 0.1"],
        "own": "in /mnt/output",
    }
    (output,) = ended(mw, "data")["outputs"]
    uid = json.loads(mw.ok("job", "get", "data", "--json"))["metadata"]["uid"]
    mw.ok("bucket", "download", f"s3://mw-default/jobs/data/{uid}/tensorboard/", str(tmp_path / "boards"))
    assert (tmp_path / "boards/a1/events").read_text() == "seen"
    assert output["uri"] == "s3://files/out/"
    mw.ok("bucket", "download", output["uri"], str(tmp_path / "out"))
    assert (tmp_path / "out" / "sub" / "model.txt").read_text() == "trained"
    assert (tmp_path / "out" / "top.txt").read_text() == "too"


def test_a_missing_input_is_named(mw: Mw) -> None:
    mw.ok("apply", "-f", "-", stdin="kind: Bucket\nmetadata: {name: empty}\nspec: {}\n")
    done = mw("job", "submit", "-f", "-", "--wait", stdin=job("hungry", "true", inputs={"data": "s3://empty/no/"}))
    assert (done.returncode, "s3://empty/no/" in done.stderr) == (WORKLOAD_FAILED, True), done.stderr


KEYS = """
import os, obstore
from obstore.store import S3Store
def store(bucket):
    return S3Store(bucket, endpoint=os.environ["AWS_ENDPOINT_URL"], region=os.environ["AWS_REGION"],
                   access_key_id=os.environ["AWS_ACCESS_KEY_ID"], secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
                   session_token=os.environ["AWS_SESSION_TOKEN"], client_options={"allow_http": True},
                   virtual_hosted_style_request=False)
def attempt(what, call):
    try:
        call()
        print(what, "yes", flush=True)
    except Exception as error:
        print(what, "no", type(error).__name__, flush=True)
mine, other = store("keyed"), store("private")
attempt("read", lambda: mine.get("in/x.txt").bytes())
attempt("write", lambda: mine.put("out/y.txt", b"y"))
attempt("beside", lambda: mine.get("secret.txt").bytes())
attempt("write-input", lambda: mine.put("in/x.txt", b"changed"))
attempt("list-all", lambda: list(mine.list()))
attempt("other", lambda: other.get("x.txt").bytes())
"""


def test_keys_of_a_job_open_its_own_prefixes_only(mw: Mw, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    for bucket, target in (("keyed", "in/x.txt"), ("keyed", "secret.txt"), ("private", "x.txt")):
        mw("bucket", "create", bucket)
        mw.ok("bucket", "upload", str(tmp_path / "x.txt"), f"s3://{bucket}/{target}")
    spec = {"inputs": {"data": "s3://keyed/in/"}, "output": "s3://keyed/out/"}
    told = mw.ok("job", "submit", "-f", "-", "--follow", stdin=python("keys", KEYS, credentials=True, **spec))
    answers = dict(line.split()[:2] for line in told.splitlines() if line.split()[1:2] in (["yes"], ["no"]))
    assert answers == {
        "read": "yes", "write": "yes", "beside": "no", "write-input": "no", "list-all": "no", "other": "no",
    }  # fmt: skip
    without = mw.ok("job", "submit", "-f", "-", "--follow", stdin=job("keyless", "env | grep -c ^AWS_ || true", **spec))
    assert without.splitlines()[-2] == "0"


ASK = """
import os, urllib.error, urllib.request
def ask(path, method="GET"):
    headers = {"Authorization": "Bearer " + os.environ["MW_TOKEN"]}
    asked = urllib.request.Request(os.environ["MW_API"] + "/api/v1" + path, method=method, headers=headers)
    try:
        return urllib.request.urlopen(asked).status
    except urllib.error.HTTPError as error:
        return error.code
print("token", os.environ["MW_TOKEN"])
own, others = ask("/jobs/asks/metrics"), ask("/status?workspace=other")
print("answers", own, others, ask("/keys"), ask("/nodes/local/cordon", "POST"))
"""


def test_the_api_key_of_a_job_is_for_its_workspace_and_ends_with_it(mw: Mw, client: Client) -> None:
    told = mw.ok("job", "submit", "-f", "-", "--follow", stdin=python("asks", ASK, credentials=True))
    said = dict(line.split(" ", 1) for line in told.splitlines() if line.startswith(("token ", "answers ")))
    assert said["answers"] == "200 403 403 403"
    assert "job:" not in mw.ok("key", "list")
    document = json.loads(mw.home.client.read_text())

    def refused() -> bool:
        with contextlib.closing(Client(document["url"], said["token"])) as late:
            try:
                late.get("Bucket", "none")
            except Unauthorized:
                return True
            except NotFound:
                return False  # believed for some seconds
        return False

    poll(refused)


SPY = """
import http.client, json, os, pathlib, socket
home, ports, run = os.environ["SPY_HOME"], json.loads(os.environ["SPY_PORTS"]), os.environ["SPY_RUN"]
found = [path for path in (home, f"{home}/secrets", run, f"{run}/pg") if os.path.exists(path)]
for pid in filter(str.isdigit, os.listdir("/proc")):
    line = pathlib.Path("/proc", pid, "cmdline").read_bytes()
    if int(pid) != os.getpid() and any(word in line for word in (b"postgres", b"weed", b"modelworks.main")):
        found.append(f"process {line}")
for port in ports:
    for path in ("/", "/private/x.txt", "/buckets/private/x.txt", "/buckets/", "/dir/status", "/cluster/status"):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path, headers={"Accept": "application/json"})
            answer = connection.getresponse()
            body = answer.read(4096).decode(errors="replace")
            if "hush" in body or "private" in body and path != "/private/x.txt" and "<Resource>" not in body:
                found.append(f"port {port} {path}: {answer.status} {body[:200]}")
        except (OSError, http.client.HTTPException):
            continue
print("found", json.dumps(found))
"""


def test_a_job_does_not_see_the_platform(mw: Mw, tmp_path: Path) -> None:
    if not json.loads(mw.ok("status", "--json"))["isolation"]:
        pytest.skip("isolation is off on this machine")
    (tmp_path / "x.txt").write_text("hush")
    mw("bucket", "create", "private")
    mw.ok("bucket", "upload", str(tmp_path / "x.txt"), "s3://private/x.txt")
    weed = next(p["pid"] for p in json.loads(mw.ok("status", "--json"))["processes"] if p["name"] == "weed")
    ports = leftovers.ports(weed)
    assert len(ports) >= 3
    env = {"SPY_HOME": str(mw.home.root), "SPY_RUN": str(mw.home.run), "SPY_PORTS": json.dumps(ports)}
    told = mw.ok("job", "submit", "-f", "-", "--follow", stdin=python("spy", SPY, env=env))
    assert [line for line in told.splitlines() if line.startswith("found")] == ["found []"]


def test_what_fits_on_no_machine_waits_and_says_so(mw: Mw, client: Client) -> None:
    mw.ok("job", "submit", "-f", "-", stdin=job("huge", "echo never", resources={"cpu": 64, "memory": "1Gi"}))
    document = _wait_message(client, "huge", "larger than any node")
    assert phase_of(document) in ("Queued", "Pending")
    assert "64" in document["status"]["message"]
    mw.ok("job", "cancel", "huge")
    assert mw("job", "wait", "huge").returncode == WORKLOAD_FAILED
    assert ended(mw, "huge")["replicas"] == []


def test_room_that_is_freed_starts_who_waits(mw: Mw, client: Client) -> None:
    (node,) = client.status()["nodes"]
    cpus = str(node["capacity"]["cpu"])
    mw.ok("job", "submit", "-f", "-", stdin=job("first", "sleep 600", resources={"cpu": cpus, "memory": "64Mi"}))
    poll(lambda: phase_of(client.get(jobs.KIND, "first")) == "Running")
    mw.ok("job", "submit", "-f", "-", stdin=job("next", "echo mine", resources={"cpu": cpus, "memory": "64Mi"}))
    waiting = _wait_message(client, "next", "cpu")
    assert phase_of(waiting) in ("Queued", "Pending")
    mw.ok("job", "cancel", "first")
    mw.ok("job", "wait", "next")
    assert mw.ok("job", "log", "next") == "mine\n"


def _wait_message(client: Client, name: str, text: str) -> dict[str, Any]:
    poll(lambda: text in str((client.get(jobs.KIND, name).get("status") or {}).get("message", "")).lower())
    return client.get(jobs.KIND, name)


def test_cancelled_and_deleted_at_any_moment_nothing_stays(mw: Mw, client: Client) -> None:
    rest = random.Random(7)
    uids: dict[str, str] = {}
    for number in range(20):
        name = f"brief-{number}"
        text = yaml.safe_load(job(name, "sleep 600 & setsid sleep 600 & wait", grace_period="1s"))
        (result,) = client.apply([{"apiVersion": "modelworks/v1", **text}])
        uids[name] = result["resource"]["metadata"]["uid"]
        time.sleep(rest.uniform(0, 0.4))  # reaches another moment of the start each time
        if rest.random() < 0.5:
            client.cancel_job(name)
        else:
            client.delete(jobs.KIND, name)
    poll(lambda: all(jobs.ended(left) or "deleting" in left["metadata"] for left in client.resources(jobs.KIND)))
    for left in client.resources(jobs.KIND):
        with contextlib.suppress(NotFound):  # one that was being deleted is gone by now
            client.delete(jobs.KIND, left["metadata"]["name"])
    poll(lambda: not list(client.resources(jobs.KIND)))
    for uid in uids.values():
        assert leftovers.of_workload(mw.home, uid) == []
    assert leftovers.groups_of(str(RunKey(uid, "a1")) for uid in uids.values()) == []
    engine = create_engine(json.loads((mw.home.secrets / "database.json").read_text())["url"])
    with engine.connect() as connection:
        assert connection.execute(select(func.count()).select_from(claims)).scalar_one() == 0
    engine.dispose()
