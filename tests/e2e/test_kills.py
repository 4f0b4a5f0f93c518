"""``kill -9`` of every process of the platform while jobs run, a service answers and clients write."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
from tests import leftovers, traffic
from tests.cli_platform import Mw, fresh

from modelworks.kernel.errors import ModelworksError
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri
from modelworks.sdk import jobs
from modelworks.sdk.client import Client, Document
from modelworks.supervisor.procfs import Identity
from modelworks.supervisor.state import State

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("kills")]
PROCESSES = ("controller", "agent", "gateway", "courier", "postgres", "weed")

# Every start leaves a file of its own in the volume; the end is told by another file.
WORKLOAD = """
import os, pathlib, sys, time
marks = pathlib.Path("/mnt/marks")
name = os.environ["MW_JOB"]
(marks / f"{name}.started.{time.time_ns()}").touch()
pathlib.Path("/mnt/output/early.txt").write_text("early")
while not (marks / f"{name}.finish").exists():
    print("working", flush=True)
    time.sleep(0.05)
pathlib.Path("/mnt/output/late.txt").write_text(name)
print("done", flush=True)
sys.exit(int(os.environ["CODE"]))
"""
PROCESSOR = """
import os, pathlib, time
class Echo:
    def initialize(self):
        pathlib.Path("/mnt/marks", f"echo.started.{time.time_ns()}").touch()
    def process(self, data):
        return {"pid": os.getpid()}
"""


@pytest.fixture(scope="module")
def mw() -> Iterator[Mw]:
    with fresh() as one:
        yield one


@pytest.fixture(scope="module")
def platform(mw: Mw, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("echo")
    (folder / "echo.py").write_text(PROCESSOR)
    volume = "kind: Volume\nmetadata: {name: marks}\nspec: {size: 1Gi, shared: true}\n"
    service = (
        "kind: Service\nmetadata: {name: echo}\nspec: {processor: python, entry: 'echo.py:Echo', code: .,"
        " instance_type: local.tiny, volumes: [{name: marks, mount_path: /mnt/marks}]}\n"
    )
    (folder / "service.yaml").write_text(
        f"{volume}---\n{service}---\nkind: Bucket\nmetadata: {{name: acked}}\nspec: {{}}\n"
    )
    mw.ok("apply", "-f", "service.yaml", cwd=folder)
    mw.ok("service", "start", "echo", "--wait")
    one = Platform(mw)
    yield one
    one.client.close()
    mw.ok("down", "--grace", "2")
    assert leftovers.of_platform(mw.home) == []


class Platform:
    """The platform under test: its processes, its marks, and clients that write while something is killed."""

    def __init__(self, mw: Mw) -> None:
        self.mw = mw
        document = json.loads(mw.home.client.read_text())
        self.client = Client(document["url"], document["api_key"])
        (self.marks,) = mw.home.volumes.iterdir()
        self.token = self.client.service_token("echo")
        self.objects = ObjectClient(
            Credentials.parse(self.client.storage_credentials(read=["s3://acked/"], write=["s3://acked/"]))
        )

    def identities(self) -> dict[str, Identity]:
        """Of the processes that run now."""
        state = State.load(self.mw.home)
        found = {name: process.identity for name, process in state.processes.items()} | {"supervisor": state.supervisor}
        return {name: identity for name, identity in found.items() if identity is not None and identity.alive()}

    def submit(self, name: str, code: int) -> str:
        """A job that runs until it is told to finish; its uid, once it has started."""
        spec: Document = {
            "command": ["python", "-c", WORKLOAD],
            "instance_type": "local.tiny",
            "env": {"CODE": code},
            "volumes": [{"name": "marks", "mount_path": "/mnt/marks"}],
        }
        (result,) = self.client.apply([manifest(jobs.KIND, name, spec)])
        await_true(lambda: self.starts(name), f"{name} does not start")
        return str(result["resource"]["metadata"]["uid"])

    def starts(self, name: str) -> int:
        return len(list(self.marks.glob(f"{name}.started.*")))

    def finish(self, name: str) -> Document:
        (self.marks / f"{name}.finish").touch()
        return jobs.wait(self.client, name)

    def up(self) -> bool:
        return self.mw("status").returncode == 0


def manifest(kind: str, name: str, spec: Document) -> Document:
    return {"apiVersion": "modelworks/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


@contextmanager
def repeating(*calls: Callable[[int], str]) -> Iterator[list[list[str]]]:
    """Call each with 0, 1, 2 … in a thread of its own; the lists of what they acknowledged by returning."""
    stop = threading.Event()
    acknowledged: list[list[str]] = [[] for _ in calls]

    def run(call: Callable[[int], str], done: list[str]) -> None:
        number = 0
        while not stop.wait(0.02):
            number += 1
            try:
                done.append(call(number))
            except ModelworksError:
                stop.wait(0.1)  # refused or unreachable: nothing was promised

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in zip(calls, acknowledged, strict=True)]
    for thread in threads:
        thread.start()
    try:
        yield acknowledged
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def await_true(condition: Callable[[], object], what: str, timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def grown(lists: Sequence[list[str]], by: int) -> None:
    """Until each of the lists has so many more."""
    wanted = [len(one) + by for one in lists]
    await_true(lambda: all(len(one) >= n for one, n in zip(lists, wanted, strict=True)), "nothing is acknowledged")


@pytest.mark.parametrize("name", [*PROCESSES, "supervisor"])
def test_nothing_is_lost(platform: Platform, name: str, record_property: Callable[[str, object], None]) -> None:
    good, bad = f"good-{name}", f"bad-{name}"
    uids = [platform.submit(good, 0), platform.submit(bad, 7)]
    before = platform.identities()
    assert set(before) == {*PROCESSES, "supervisor"}

    def upload(number: int) -> str:
        platform.objects.put(ObjectUri("acked", f"{name}/{number}"), str(number).encode())
        return f"{name}/{number}"

    def apply(number: int) -> str:
        spec = {"cpu": 1, "memory": "1Gi", "price_per_hour": number}
        platform.client.apply([manifest("InstanceType", f"type-{name}-{number}", spec)])
        return f"type-{name}-{number}"

    url = platform.client.service_endpoint("echo")
    with traffic.steady(url, platform.token) as calls, repeating(upload, apply) as written:
        calls.wait_answers(20)
        grown(written, 3)
        os.kill(before[name].pid, signal.SIGKILL)
        killed = time.monotonic()
        await_true(lambda: not before[name].alive(), f"{name} was not killed")  # it may still be in the kernel
        if name == "supervisor":
            calls.wait_answers(20)
            platform.mw.ok("up", "--detach")
        else:
            await_true(lambda: platform.identities().keys() == before.keys(), f"{name} is not started again")
        calls.wait_answers(1)
        record_property("answered_after_s", round(time.monotonic() - killed, 3))
        await_true(platform.up, f"the platform is not whole again after {name} was killed")
        again = len(calls.seen.failed)
        calls.wait_answers(50)
        grown(written, 3)
        assert calls.seen.failed[again:] == []
    record_property("traffic", str(calls.seen))

    # Requests that were inside the gateway end with it; nobody else's end is seen by a client.
    assert len(calls.seen.failed) <= (3 if name == "gateway" else 0), calls.seen.failed
    assert platform.starts("echo") == 1
    assert len(calls.seen.bodies) == 1
    after = platform.identities()
    assert {one for one in before if after[one] != before[one]} == {name}

    job = platform.finish(good)
    status = job["status"]
    assert (status["phase"], status["attempts"][0]["exit_code"]) == ("Succeeded", 0), status
    assert platform.starts(good) == 1
    files = _committed(platform, str(jobs.output_uri(job)))
    assert files == {"early.txt": b"early", "late.txt": good.encode()}
    log = b"".join(platform.client.job_log(good))
    assert log.endswith(b"working\ndone\n")
    status = platform.finish(bad)["status"]
    assert (status["phase"], status["attempts"][0]["exit_code"]) == ("Failed", 7), status
    assert len(status["attempts"]) == 1
    assert platform.starts(bad) == 1
    assert [line for uid in uids for line in leftovers.processes(uid)] == []

    uploads, applies = written
    stored = {info.key for info in platform.objects.list(ObjectUri("acked", f"{name}/"))}
    assert set(uploads) <= stored
    assert platform.objects.get(ObjectUri("acked", uploads[-1])) == uploads[-1].rpartition("/")[2].encode()
    kept = {item["metadata"]["name"] for item in platform.client.resources("InstanceType")}
    assert set(applies) <= kept
    assert set(applies) <= _told(platform.client, "Created")


def _committed(platform: Platform, output: str) -> dict[str, bytes]:
    """The files of a job's output, if its manifest is there."""
    reader = ObjectClient(Credentials.parse(platform.client.storage_credentials(read=[output])))
    root = ObjectUri.parse(output)
    keys = [info.key for info in reader.list(root)]
    files = {key.removeprefix(root.key): reader.get(ObjectUri(root.bucket, key)) for key in keys}
    named = {file["path"] for file in json.loads(files.pop(".manifest.json"))["files"]}
    return {name: content for name, content in files.items() if name in named}


def _told(client: Client, reason: str) -> set[str]:
    """Names of the instance types whose event was appended."""
    names: set[str] = set()
    cursor: str | None = None
    while True:
        items, after = client.events("InstanceType", since=cursor, limit=500)
        names |= {item["name"] for item in items if item["reason"] == reason}
        if after == cursor or not items:
            return names
        cursor = after
