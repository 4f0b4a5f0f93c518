"""Jobs on a Ray cluster of three hosts, through `mw`: where they run, what holds their room, what outlives what."""

from __future__ import annotations

import json
import os
import re
import shutil
import textwrap
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import agents, leftovers
from tests.agents import run_spec, wait_ended
from tests.contract import test_runtime as contract
from tests.e2e import test_preemption
from tests.ray_cluster import PATIENCE, ClusterMw, RayCluster, cluster, isolated, needed, platform
from tests.ray_gang import Gang, Witness, resumed_exactly

from modelworks.kernel.errors import Unavailable
from modelworks.runtime.agent_client import AgentClient
from modelworks.runtime.ray.bridge_client import BridgeClient
from modelworks.sdk.client import Client
from modelworks.sdk.waiting import phase_of

pytestmark = [needed, pytest.mark.timeout(600), pytest.mark.xdist_group("ray")]
CONTRACT = [name for name in vars(contract) if name.startswith("test_")]
SMALL = {"cpu": "500m", "memory": "512Mi"}
WHOLE = {"cpu": "1", "memory": "512Mi"}  # of a node, so that no two share one


@pytest.fixture(scope="module")
def ray() -> Iterator[RayCluster]:
    with cluster(nodes=3) as one:
        yield one
        # Before the hosts are taken down, nothing of any run is on them.
        assert [line for host in one.hosts for line in of_runs(host.pids())] == []


@pytest.fixture(scope="module")
def mw(ray: RayCluster) -> Iterator[ClusterMw]:
    with platform(ray) as one:
        poll(lambda: len(ready(one)) == 3)
        yield one
        one.ok("down", "--grace", "2")
        assert leftovers.of_platform(one.home) == []
        assert [pid for host in ray.hosts for pid in host.pids() if agents_of(pid)] == []


def poll(condition: Callable[[], Any]) -> None:
    agents.poll(condition, PATIENCE)


def ready(mw: ClusterMw) -> list[str]:
    try:
        _, nodes = bridge(mw).nodes()
    except Unavailable:  # it joins again a head that was lost
        return []
    return sorted(node.name for node in nodes if node.state == "ready")


def bridge(mw: ClusterMw) -> BridgeClient:
    return BridgeClient(mw.home.bridge_socket)


def groups(mw: ClusterMw) -> list[str]:
    return [group.name for group in bridge(mw).groups()]


def agents_of(pid: int) -> bool:
    try:
        return b"modelworks.main\0agent" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def of_runs(numbers: list[int]) -> list[str]:
    found = []
    for pid in numbers:
        try:
            if b"\0MW_RUN=" in b"\0" + Path(f"/proc/{pid}/environ").read_bytes():
                found.append(f"{pid}: {Path(f'/proc/{pid}/cmdline').read_bytes()!r}")
        except OSError:
            continue  # ended meanwhile
    return found


def submit(mw: ClusterMw, name: str, program: str, **spec: Any) -> dict[str, Any]:
    command = ["python", "-c", textwrap.dedent(program)]
    document = {"kind": "TrainingJob", "metadata": {"name": name}, "spec": {"command": command, **spec}}
    manifest = mw.home.root / f"{name}.yaml"
    manifest.write_text(yaml.safe_dump(document))
    mw.ok("job", "submit", "-f", str(manifest))
    return get(mw, name)


def get(mw: ClusterMw, name: str) -> dict[str, Any]:
    return dict(json.loads(mw.ok("get", "job", name, "--json")))


def wait(mw: ClusterMw, name: str, *phases: str) -> dict[str, Any]:
    def done() -> bool:
        found = get(mw, name)
        if phase_of(found) in ("Succeeded", "Failed", "Cancelled") and phase_of(found) not in phases:
            raise AssertionError(f"{found['status']}\n{mw('logs', name).stdout}")
        return phase_of(found) in phases

    try:
        poll(done)
    except AssertionError as error:
        raise AssertionError(f"{name}: {get(mw, name)['status']}\n{mw('node', 'list').stdout}") from error
    return get(mw, name)


def log(mw: ClusterMw, name: str, replicas: int = 1) -> str:
    return "".join(mw.ok("logs", name, "--replica", str(n)) for n in range(replicas))


def test_a_job_runs_on_a_node(mw: ClusterMw, ray: RayCluster) -> None:
    submit(
        mw,
        "one",
        """
        import os, pathlib
        print("api", os.environ["MW_API"])
        pathlib.Path(os.environ["MW_OUTPUT_DIR"], "weights.bin").write_bytes(b"w" * 100)
        """,
        resources=SMALL,
    )
    found = wait(mw, "one", "Succeeded")
    assert f"api http://{ray.address}:{mw.port}" in log(mw, "one")
    assert "weights.bin" in json.dumps(found["status"]) or found["status"]["outputs"]
    poll(lambda: groups(mw) == [])


GANG = """
import os, torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.ones(1) * (dist.get_rank() + 1)
dist.all_reduce(total)
print("rank", dist.get_rank(), "of", dist.get_world_size(), "sum", total.item(), "master", os.environ["MASTER_ADDR"])
dist.destroy_process_group()
"""


def test_a_gang_trains_on_three_nodes(mw: ClusterMw, ray: RayCluster) -> None:
    """Its ranks meet at the node of rank 0; one group holds the room of all while they work, and none afterwards."""
    found = submit(mw, "gang", GANG, replicas=3, resources=WHOLE, framework="pytorch")
    uid = found["metadata"]["uid"]
    poll(lambda: [one for one in groups(mw) if one.startswith(f"{uid}/")] or phase_of(get(mw, "gang")) == "Succeeded")
    found = wait(mw, "gang", "Succeeded")
    text = log(mw, "gang", 3)
    lines = re.findall(r"rank (\d) of 3 sum 6.0 master (\S+)", text)
    assert sorted(rank for rank, _ in lines) == ["0", "1", "2"], text
    nodes = {run["ordinal"]: run["node"] for run in found["status"]["replicas"]}
    assert sorted(nodes.values()) == ["n1", "n2", "n3"]
    (rank0,) = [host for host in ray.hosts if host.name == nodes[0]]
    assert {master for _, master in lines} == {rank0.address}
    poll(lambda: groups(mw) == [])


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="OpenMPI is not installed")
def test_an_mpi_job_has_a_process_on_each_of_three_nodes(mw: ClusterMw) -> None:
    """Its ``mpirun`` reaches the other nodes by no ssh, and what the processes say comes back to it."""
    command = "mpirun sh -c 'echo process $OMPI_COMM_WORLD_RANK of $OMPI_COMM_WORLD_SIZE in replica $RANK'"
    document = {
        "kind": "TrainingJob",
        "metadata": {"name": "ring"},
        "spec": {"framework": "mpi", "command": command, "replicas": 3, "resources": WHOLE},
    }
    mw.ok("job", "submit", "-f", "-", stdin=yaml.safe_dump(document))
    found = wait(mw, "ring", "Succeeded")
    said = sorted(line for line in log(mw, "ring").splitlines() if line.startswith("process"))
    assert said == [f"process {rank} of 3 in replica {rank}" for rank in range(3)]
    assert sorted(run["node"] for run in found["status"]["replicas"]) == ["n1", "n2", "n3"]
    poll(lambda: groups(mw) == [])


@pytest.mark.parametrize("holds", CONTRACT)
def test_a_node_behind_the_bridge_keeps_the_contract_of_runtimes(mw: ClusterMw, holds: str) -> None:
    client = AgentClient(bridge_socket(mw, "n1"))
    for job in json.loads(mw.ok("job", "list", "--json"))["items"]:
        mw.ok("job", "delete", job["metadata"]["name"])
    poll(lambda: not client.observe(""))
    try:
        getattr(contract, holds)(client)
    finally:
        for run in client.observe(""):
            client.stop(run.key, 0.0)
            wait_ended(client, run.key)
            client.forget(run.key)


def test_room_that_others_hold_is_waited_for(mw: ClusterMw, ray: RayCluster) -> None:
    """A gang is granted whole or not at all: while one node is another's, none of its runs begins."""
    (taken, *_) = ray.hosts
    other = ray.run(
        f"""
from ray.util.placement_group import placement_group
import time
found = {{n["NodeManagerAddress"]: n["NodeID"] for n in ray.nodes() if n["Alive"]}}
select = [{{"ray.io/node-id": found["{taken.address}"]}}]
assert placement_group([{{"CPU": 1}}], bundle_label_selector=select).wait(10)
print("held", flush=True)
time.sleep(300)
"""
    )
    try:
        poll(lambda: "held" in other.log.read_text())  # type: ignore[attr-defined]
        submit(mw, "patient", "print('done')", replicas=3, resources=WHOLE)
        poll(lambda: taken.name in get(mw, "patient")["status"].get("message", ""))
        assert phase_of(get(mw, "patient")) == "Queued"
        assert of_runs([pid for host in ray.hosts for pid in host.pids()]) == []
    finally:
        other.kill()
        other.wait()
    wait(mw, "patient", "Succeeded")
    poll(lambda: groups(mw) == [])


def test_what_runs_outlives_its_door(mw: ClusterMw, ray: RayCluster) -> None:
    """The actor is killed, and then the agent too: both are there again, and the run never noticed."""
    program = """
    import os, time
    print("pid", os.getpid(), flush=True)
    time.sleep(300)
    """
    submit(mw, "outlives", program, resources=SMALL)
    found = wait(mw, "outlives", "Running")
    (run,) = found["status"]["replicas"]
    poll(lambda: "pid" in log(mw, "outlives"))
    (host,) = [one for one in ray.hosts if one.name == run["node"]]
    agent = AgentClient(bridge_socket(mw, host.name))
    (before,) = [pid for pid in host.pids() if agents_of(pid)]
    killer = ray.run(
        f"""
found = [n["NodeID"] for n in ray.nodes() if n["Alive"] and n["NodeManagerAddress"] == "{host.address}"]
actors = [ray.get_actor("agent-" + node, namespace="modelworks") for node in found]
[ray.kill(actor) for actor in actors]
"""
    )
    assert killer.wait(PATIENCE) == 0, killer.log.read_text()  # type: ignore[attr-defined]
    poll(lambda: agent.healthy())
    assert [pid for pid in host.pids() if agents_of(pid)] == [before]
    os.kill(before, 9)
    poll(lambda: (found := [p for p in host.pids() if agents_of(p)]) and found != [before] and agent.healthy())
    assert phase_of(get(mw, "outlives")) == "Running"
    mw.ok("job", "cancel", "outlives")
    wait(mw, "outlives", "Cancelled")
    assert len(log(mw, "outlives").splitlines()) == 1
    poll(lambda: groups(mw) == [])
    assert of_runs(host.pids()) == []


def bridge_socket(mw: ClusterMw, name: str) -> Path:
    (found,) = [node.socket for node in bridge(mw).nodes()[1] if node.name == name]
    assert found is not None
    return found


def cancelled_at_random_moments(mw: ClusterMw, ray: RayCluster, count: int) -> None:
    """Of so many jobs there is no process, control group or port left on any host, and none of their room is held."""
    document = json.loads(mw.home.client.read_text())
    client, before = Client(document["url"], document["api_key"], patience=60.0), listening(ray)
    try:
        test_preemption.cancel_at_random_moments(mw, client, count)
    finally:
        client.close()
    poll(lambda: groups(mw) == [])
    assert [line for host in ray.hosts for line in of_runs(host.pids())] == []
    assert listening(ray) == before


def listening(ray: RayCluster) -> list[tuple[int, list[int]]]:
    """The agents of all hosts, each with the ports on which it listens."""
    return [(pid, leftovers.ports(pid)) for host in ray.hosts for pid in sorted(host.pids()) if agents_of(pid)]


def test_jobs_cancelled_at_random_moments_leave_nothing(mw: ClusterMw, ray: RayCluster) -> None:
    cancelled_at_random_moments(mw, ray, 6)


def test_an_agent_on_a_node_answers_as_one_at_home(mw: ClusterMw, ray: RayCluster) -> None:
    """Long polls are many at once, and hold nobody else up; large answers come whole."""
    client = AgentClient(bridge_socket(mw, "n2"))
    said = client.node()
    assert (said.name, said.address, said.capacity.cpu) == ("n2", ray.hosts[1].address, 1000)
    assert said.interface == ("eth0" if ray.hosts[1].namespace else said.interface)
    cursor, _ = client.changes(0, 0.0)
    with ThreadPoolExecutor(12) as threads:
        waiting = [threads.submit(AgentClient(client.socket).changes, cursor, 50.0) for _ in range(12)]
        spec = run_spec(1, "sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x")
        client.ensure(spec)
        assert all(spec.key in done.result()[1] for done in waiting)
    wait_ended(client, spec.key)
    assert len(client.log(spec.key, 0, 8 << 20)) == 3_000_000
    client.forget(spec.key)
    assert list(client.observe(spec.key)) == []


def test_a_disturbed_gang_goes_on_from_its_checkpoints(mw: ClusterMw, ray: RayCluster) -> None:
    """A node is cut off, another one loses its raylet, and at last the head fails, which comes back empty.

    Each time the lease (15 s) ends what ran before another attempt begins: back within it, it would have gone on as it
    was, since what runs is no child of Ray's. The last attempt ends as if nothing had happened.
    """
    faults = ["cut", "raylet", "head"] if isolated() else ["raylet", "head"]
    gang, kept = Gang(mw, "disturbed", 2), list[tuple[int, int]]()
    gang.submit(steps=0, pace=0.2, attempts=len(faults) + 1, more=10)
    with Witness(ray, gang.uid) as witness:
        for attempt, fault in enumerate(faults, start=1):
            kept.append(gang.works(attempt))
            assert kept[-1][1] > 0, gang.document["status"]
            host = gang.host(ray, attempt % 2)
            match fault:
                case "cut":
                    host.cut()
                    poll(lambda: "a2" in witness.attempts)
                    host.heal()
                    # A raylet that was given up ends when it hears of it, and is started again by who keeps it.
                    ray.kill_raylet(host)
                    ray.join(host)
                case "raylet":
                    ray.kill_raylet(host)
                    poll(lambda number=attempt + 1: f"a{number}" in witness.attempts)
                    ray.join(host)
                case _:
                    ray.kill_head()
                    ray.kill_raylets()
                    poll(lambda: witness.at_work() == set())
                    ray.start()
        poll(gang.ended)
    assert witness.overlaps == []
    assert witness.attempts >= {f"a{number}" for number in range(1, len(faults) + 2)}
    assert gang.begun(0).keys() == gang.begun(1).keys() >= set(range(1, len(faults) + 2))
    resumed_exactly(gang, kept)
    poll(lambda: groups(mw) == [])
    assert of_runs([pid for host in ray.hosts for pid in host.pids()]) == []


HEEDS = """
import os, signal, sys, time
from modelworks.train import checkpoint
found = checkpoint.restore()
if found:
    print("goes on at", found.step, "with", found.state["work"], flush=True)
    sys.exit(0)
def stop(number, frame):
    print("told by", signal.Signals(number).name, flush=True)
    with open(os.environ["MW_NOTICE_FILE"]) as file:
        print("notice", file.read(), flush=True)
    checkpoint.save(7, work=42, wait=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("up", flush=True)
while True:
    time.sleep(0.1)
"""


def test_a_node_that_ray_drains_has_a_notice_and_so_have_its_jobs(mw: ClusterMw, ray: RayCluster) -> None:
    """It is heard of at once, by whoever waits for changes of runs there; a job goes on elsewhere with what it has."""
    for other in ("n1", "n2"):
        mw.ok("node", "cordon", other)
    submit(mw, "heeds", HEEDS, resources=SMALL, notice="15m")  # more than the node has
    poll(lambda: "up" in log(mw, "heeds"))
    assert [run["node"] for run in get(mw, "heeds")["status"]["replicas"]] == ["n3"]
    for other in ("n1", "n2"):
        mw.ok("node", "uncordon", other)
    client = AgentClient(bridge_socket(mw, "n3"))
    cursor, _ = client.changes(0, 0.0)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.changes, cursor, 50.0)
        began = time.time()
        ray.drain(ray.hosts[2], seconds=600)
        waiting.result()
    poll(lambda: client.node().notice_at is not None)
    found = client.node()
    assert found.notice == "Ray is draining the node"
    assert 500 < (found.notice_at or 0) - began < 700
    assert "n3 is being drained by Ray" in mw.ok("status")
    done = wait(mw, "heeds", "Succeeded")["status"]
    assert [attempt["reason"] for attempt in done["attempts"]] == ["Preempted", "Completed"]
    assert "n3" in done["attempts"][0]["message"]
    assert [run["node"] for run in done["replicas"]] != ["n3"]
    text = log(mw, "heeds")
    (notice,) = [json.loads(line.split(" ", 1)[1]) for line in text.splitlines() if line.startswith("notice")]
    assert notice["reason"] == "Preempted"
    assert 500 < notice["deadline"] - began < 700
    assert ("told by SIGTERM" in text, "goes on at 7 with 42" in text) == (True, True), text
