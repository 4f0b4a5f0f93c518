"""Jobs whose room is wanted back, whose ranks fail, and that shrink and grow, through `mw` on the real platform."""

from __future__ import annotations

import json
import random
import shutil
import textwrap
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import leftovers, train_ddp
from tests.agents import poll
from tests.cli_platform import Mw

from modelworks.kernel.errors import Invalid
from modelworks.kernel.run import RunKey
from modelworks.sdk.client import Client
from modelworks.sdk.waiting import phase_of

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("preemption")]
REFUSED, WORKLOAD_FAILED = 4, 6
_AT_ONCE = 6
PATIENCE = 200.0  # seconds; workloads stand back behind everything else that the machine does


def submit(mw: Mw, name: str, command: object, cwd: Path | None = None, **spec: Any) -> None:
    document = {"kind": "TrainingJob", "metadata": {"name": name}, "spec": {"command": command, **spec}}
    document["spec"] = {"resources": {"cpu": "100m", "memory": "512Mi"}} | document["spec"]
    mw.ok("job", "submit", "-f", "-", stdin=yaml.safe_dump(document), cwd=cwd)


def python(program: str) -> list[str]:
    return ["python", "-c", textwrap.dedent(program)]


def status(client: Client, name: str) -> dict[str, Any]:
    return dict(client.get("TrainingJob", name)["status"])


def log(client: Client, name: str, attempt: int, replica: int = 0) -> list[str]:
    try:
        return b"".join(client.job_log(name, attempt=attempt, replica=replica)).decode().splitlines()
    except Invalid:  # the attempt has not begun
        return []


def said(client: Client, name: str, word: str, attempt: int = 1, replica: int = 0) -> None:
    """Wait until a line of that attempt's log begins with the word."""
    try:
        poll(lambda: any(line.startswith(word) for line in log(client, name, attempt, replica)), timeout=PATIENCE)
    except AssertionError as error:
        raise AssertionError(
            f"{name} never said {word!r}: {status(client, name)} {log(client, name, attempt)}"
        ) from error


def attempt_ended(client: Client, name: str, number: int) -> dict[str, Any]:
    """The account of an attempt, once it has ended."""
    poll(lambda: len(status(client, name).get("attempts", ())) >= number, timeout=PATIENCE)
    return dict(status(client, name)["attempts"][number - 1])


def ended(mw: Mw, name: str) -> dict[str, Any]:
    """The status of a job that has ended, and left nothing on the machine."""
    mw("job", "wait", name)
    document = json.loads(mw.ok("get", "job", name, "--json"))
    assert phase_of(document) in ("Succeeded", "Failed", "Cancelled")
    assert leftovers.processes(document["metadata"]["uid"]) == []
    return dict(document["status"])


TELLS = """
    import os, signal, sys, time
    if os.environ["MW_ATTEMPT"] == "2":
        sys.exit(0)
    def stop(*_):
        print("notice", open(os.environ["MW_NOTICE_FILE"]).read(), flush=True)
        sys.exit(0)
    signal.signal(signal.SIGTERM, stop)
    print("up", flush=True)
    time.sleep(600)
    """


@pytest.mark.parametrize("notice", [180, 30, 0])
def test_a_notice_is_told_with_its_time_and_the_job_goes_on(mw: Mw, client: Client, notice: int) -> None:
    name = f"notice-{notice}"
    submit(mw, name, python(TELLS))
    said(client, name, "up")
    assert mw.ok("job", "preempt", name, "--notice", f"{notice}s") == f"TrainingJob/{name} is being preempted\n"
    found = ended(mw, name)
    assert (found["phase"], [item["reason"] for item in found["attempts"]]) == ("Succeeded", ["Preempted", "Completed"])
    assert found["attempts"][0]["message"] == "preempted on request"
    told = [json.loads(line.split(" ", 1)[1]) for line in log(client, name, 1) if line.startswith("notice")]
    if notice == 0:
        assert (told, found["attempts"][0]["exit_code"]) == ([], 137)
    else:
        assert notice - 5 < told[0]["deadline"] - told[0]["at"] <= notice
        assert (told[0]["reason"], told[0]["message"]) == ("Preempted", "preempted on request")


def test_a_drained_node_preempts_its_jobs_which_go_on_where_there_is_room(mw: Mw, client: Client) -> None:
    node = str(json.loads(mw.ok("node", "list", "--json"))["items"][0]["name"])
    submit(mw, "drained", python(TELLS))
    said(client, "drained", "up")
    mw.ok("node", "drain", node, "--notice", "20s")
    account = attempt_ended(client, "drained", 1)
    assert (account["reason"], node in account["message"]) == ("Preempted", True), account
    poll(
        lambda: status(client, "drained")["phase"] == "Queued" and "is drained" in status(client, "drained")["message"]
    )
    mw.ok("node", "uncordon", node)
    assert ended(mw, "drained")["phase"] == "Succeeded"
    (told,) = [json.loads(line.split(" ", 1)[1]) for line in log(client, "drained", 1) if line.startswith("notice")]
    assert 15 < told["deadline"] - told["at"] <= 20


def test_a_job_that_holds_nothing_cannot_be_preempted(mw: Mw, client: Client) -> None:
    submit(mw, "vast", "true", resources={"cpu": "900", "memory": "1Gi"})
    done = mw("job", "preempt", "vast")
    assert (done.returncode, "holds no room" in done.stderr) == (REFUSED, True), done
    mw.ok("job", "cancel", "vast")


def disturb(mw: Mw, client: Client, folder: Path, moments: Sequence[int], **spec: Any) -> None:
    """Preempted so many steps after each beginning (0: as soon as it is prepared), a job is the undisturbed one."""
    submit(mw, "undisturbed", "python train_ddp.py", cwd=folder, **spec)
    calm = ended(mw, "undisturbed")
    assert calm["phase"] == "Succeeded", [calm, *(log(client, "undisturbed", 1, replica)[-50:] for replica in (0, 1))]
    submit(mw, "disturbed", "python train_ddp.py", cwd=folder, **spec)
    done = 0
    for attempt, steps in enumerate(moments, start=1):
        if steps:
            said(client, "disturbed", f"{done + steps} ", attempt)
        else:
            poll(lambda number=attempt: _prepared(client, "disturbed", number), timeout=PATIENCE)
        mw.ok("job", "preempt", "disturbed")
        assert attempt_ended(client, "disturbed", attempt)["reason"] == "Preempted"
        stopped = [int(line.split()[1]) for line in log(client, "disturbed", attempt) if line.startswith("stopped")]
        done = max([done, *stopped])
    found = ended(mw, "disturbed")
    assert found["phase"] == "Succeeded", found["message"]
    assert [item["reason"] for item in found["attempts"]] == ["Preempted"] * len(moments) + ["Completed"]
    for replica in (0, 1):
        even = log(client, "undisturbed", 1, replica)
        wild = [line for n in range(1, len(moments) + 2) for line in log(client, "disturbed", n, replica)]
        assert steps_of(wild) == steps_of(even)
        assert weights_of(wild) == weights_of(even) != []


def _prepared(client: Client, name: str, attempt: int) -> bool:
    found = status(client, name)
    return found.get("attempt") == attempt and bool(found.get("replicas"))


def test_preempted_at_random_moments_a_job_ends_as_if_nothing_had_happened(
    mw: Mw, client: Client, tmp_path: Path
) -> None:
    """Two ranks; the moments are steps, or the very beginning, when the replicas are being prepared."""
    pytest.importorskip("torch")
    shutil.copy(train_ddp.__file__, tmp_path / "train_ddp.py")
    spec: dict[str, Any] = {"code": ".", "replicas": 2, "env": {"PAUSE": "0.1"}, "checkpoint": {"every": 5}}
    disturb(mw, client, tmp_path, [random.randint(1, 5), 0, random.randint(1, 5)], **spec)


def weights_of(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith("weights")]


def steps_of(lines: list[str]) -> dict[int, set[str]]:
    """The losses that were printed for each step: one, however often the step was made."""
    found: dict[int, set[str]] = {}
    for words in (line.split() for line in lines if line[:1].isdigit()):
        found.setdefault(int(words[0]), set()).add(words[1])
    return found


RANKS = """
    import os, signal, sys, time
    rank = int(os.environ["RANK"])
    if rank == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    for number in range(80):
        print("line", number, flush=True)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(600)
        os._exit(0)
    while rank == 0 or not os.path.exists("/mnt/shared/up"):
        if rank == 0:
            open("/mnt/shared/up", "w").close()
        time.sleep(0.02)
    sys.exit(5)
    """


def test_a_rank_that_fails_ends_its_peers_and_is_named_with_its_last_lines(mw: Mw, client: Client) -> None:
    mw.ok("apply", "-f", "-", stdin="kind: Volume\nmetadata: {name: shared}\nspec: {size: 1Gi, shared: true}\n")
    mounts = [{"name": "shared", "mount_path": "/mnt/shared"}]
    submit(mw, "breaks", python(RANKS), replicas=2, volumes=mounts, grace_period="60s")
    assert mw("job", "wait", "breaks").returncode == WORKLOAD_FAILED
    found = ended(mw, "breaks")
    assert found["message"] == "replica 1: exit code 5: line 79"
    assert found["last_lines"] == [f"line {number}" for number in range(30, 80)]
    assert [line["reason"] for line in found["replicas"]] == ["PeerFailed", "Failed"]
    # Whatever the job's own grace period is, and though the peer does not heed its signal.
    last, first = (datetime.fromisoformat(line["exited_at"]) for line in found["replicas"])
    assert (last - first).total_seconds() <= 10
    assert "  | line 60\n" in mw.ok("job", "get", "breaks")
    assert "line 30" in mw.ok("job", "get", "breaks", "-o", "yaml")


LOADED = """
import os, signal, sys, time
import torch
from torch.utils.data import DataLoader

asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(time.time()))
torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
loader = DataLoader(list(range(10**6)), num_workers=1, multiprocessing_context="fork")
for step, batch in enumerate(loader):
    flag = torch.tensor([len(asked)])
    torch.distributed.all_reduce(flag)
    if step == 5:
        os.write(1, f"up {rank}\\n".encode())
    if flag.item():
        break
until = time.time() + float(os.environ["SAVES"])
saved = 0
while time.time() < until:  # the loader, the peers and the launcher are still there
    next(iter(loader))
    torch.distributed.all_reduce(torch.ones(1))
    saved += 1
    flag = torch.tensor([float(time.time() >= until)])
    torch.distributed.all_reduce(flag)
    if flag.item():
        break
os.write(1, f"saved {rank} {len(asked)}\\n".encode())  # in one piece, since both write to one pipe
torch.distributed.destroy_process_group()
"""


def torchrun_saves(mw: Mw, client: Client, folder: Path, saves: float, notice: float) -> None:
    """A job of torchrun takes so long to save, of so much notice, with all its processes."""
    (folder / "loaded.py").write_text(LOADED)
    command = 'test $MW_ATTEMPT -eq 2 || torchrun --nproc-per-node 2 loaded.py 2>&1 | tee "$MW_OUTPUT_DIR/log"'
    name = f"torchrun-{int(notice)}"
    spec = {"code": ".", "env": {"SAVES": saves}, "notice": notice, "processes": 2}
    submit(mw, name, command, cwd=folder, resources={"cpu": "1", "memory": "2Gi"}, **spec)
    said(client, name, "up 0")
    said(client, name, "up 1")
    mw.ok("job", "preempt", name)
    found = ended(mw, name)
    lines = log(client, name, 1)
    assert [item["reason"] for item in found["attempts"]] == ["Preempted", "Completed"], lines
    # torchrun tells its ranks nothing, so each was told once.
    assert sorted(line for line in lines if line.startswith("saved")) == ["saved 0 1", "saved 1 1"], lines
    assert found["attempts"][0]["exit_code"] == 0, lines


def test_torchrun_with_loaders_has_its_whole_notice(mw: Mw, client: Client, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    torchrun_saves(mw, client, tmp_path, saves=1.0, notice=60.0)


GROWS = """
    import os, signal, sys, time
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print("size", os.environ["WORLD_SIZE"], "rank", os.environ["RANK"], flush=True)
    while not os.path.exists("/mnt/flags/end"):
        time.sleep(0.05)
    """


def test_an_elastic_job_shrinks_for_others_and_grows_again(mw: Mw, client: Client) -> None:
    mw.ok("apply", "-f", "-", stdin="kind: Volume\nmetadata: {name: flags}\nspec: {size: 1Gi, shared: true}\n")
    mounts = [{"name": "flags", "mount_path": "/mnt/flags"}]
    third = {"cpu": "600m", "memory": "256Mi"}  # three of them have room on a node of two cores
    replicas = {"min": 1, "max": 3, "grow_after": "1s"}
    submit(mw, "stretch", python(GROWS), replicas=replicas, resources=third, volumes=mounts)
    said(client, "stretch", "size 3")
    urgent = "trap 'exit 0' TERM; while ! test -e /mnt/flags/done; do sleep 0.05; done"
    submit(mw, "urgent", urgent, resources=third, volumes=mounts, priority=10)
    said(client, "stretch", "size 2", attempt=2)
    first = attempt_ended(client, "stretch", 1)
    assert (first["reason"], first["replicas"]) == ("Preempted", 3)
    assert "urgent" in first["message"]
    submit(mw, "frees", "touch /mnt/flags/done", resources={"cpu": "50m", "memory": "64Mi"}, volumes=mounts)
    said(client, "stretch", "size 3", attempt=3)
    assert attempt_ended(client, "stretch", 2)["reason"] == "Resized"
    submit(mw, "finishes", "touch /mnt/flags/end", resources={"cpu": "50m", "memory": "64Mi"}, volumes=mounts)
    found = ended(mw, "stretch")
    assert (found["phase"], len(found["replicas"])) == ("Succeeded", 3)


ESCAPES = """
    import os, time
    for number in range(3):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execvp("sleep", ["sleep", "600"])
            os._exit(0)
    print("up", flush=True)
    time.sleep(600)
    """


def cancel_at_random_moments(mw: Mw, client: Client, count: int) -> None:
    """Jobs of one and two replicas that try to leave something; of none there is a process or a group afterwards."""
    for first in range(0, count, _AT_ONCE):
        batch = range(first, min(first + _AT_ONCE, count))
        names = [f"gone-{number}" for number in batch]
        for number, name in zip(batch, names, strict=True):
            submit(mw, name, python(ESCAPES), replicas=1 + number % 2, grace_period=random.choice(["0s", "2s"]))
        moments = {name: random.choice(["Queued", "Preparing", "Running", "up"]) for name in names}
        for name, moment in moments.items():
            if moment == "up":
                said(client, name, "up")
            elif moment != "Queued":
                poll(lambda one=name: status(client, one).get("phase") != "Queued")
            mw.ok("job", "cancel", name)
        for name in names:
            uid = client.get("TrainingJob", name)["metadata"]["uid"]
            found = ended(mw, name)
            assert found["phase"] == "Cancelled"
            keys = [RunKey(uid, f"a{found.get('attempt', 1)}", ordinal) for ordinal in range(2)]
            assert leftovers.groups_of(map(str, keys)) == []
            mw.ok("job", "delete", name)


def test_jobs_cancelled_at_random_moments_leave_nothing(mw: Mw, client: Client) -> None:
    before = leftovers.agents(mw.home)
    cancel_at_random_moments(mw, client, 12)
    assert leftovers.agents(mw.home) == before
