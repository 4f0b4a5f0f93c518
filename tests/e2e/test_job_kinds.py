"""Each kind of job on the real platform: what real launchers make of the variables, and documents of other systems."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import leftovers
from tests.cli_platform import Mw

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("job_kinds")]

# One line of each process, and a number that all of them make together.
TRAIN = """
import os
import sys
import torch
import torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(total)
words = (dist.get_rank(), dist.get_world_size(), os.environ["LOCAL_RANK"], torch.get_num_threads(), int(total))
line = " ".join(["rank %d of %d, local %s, threads %d, sum %d" % words, *sys.argv[1:]])
os.write(1, line.encode() + b"\\n")  # at once: two processes have one log
dist.destroy_process_group()
"""
# A parameter server serves until it is ended; who works tells what it knows of the cluster.
CLUSTER = """
import json, os, signal
config = json.loads(os.environ["TF_CONFIG"])
print(config["task"]["type"], config["task"]["index"], {k: len(v) for k, v in config["cluster"].items()}, flush=True)
if config["task"]["type"] == "ps":
    signal.pause()
"""
SIZE = {"cpu": "250m", "memory": "1Gi"}


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds") / "code"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)
    (folder / "cluster.py").write_text(CLUSTER)
    return folder


def container(*command: str, **fields: Any) -> dict[str, Any]:
    """A role of Kubeflow's kinds."""
    one = {"name": "c", "command": list(command), "resources": {"limits": SIZE}}
    return {"replicas": 1, "template": {"spec": {"containers": [one]}}, **fields}


def submit(mw: Mw, code: Path, document: dict[str, Any], name: str = "job.yaml") -> None:
    path = code.parent / name
    path.write_text(json.dumps(document) if name.endswith("json") else yaml.safe_dump(document))
    mw.ok("job", "submit", "-f", str(path), "--code", str(code))


def native(name: str, command: str, **spec: Any) -> dict[str, Any]:
    return {"kind": "TrainingJob", "metadata": {"name": name}, "spec": {"command": command, "resources": SIZE, **spec}}


def finished(mw: Mw, name: str, replicas: int) -> list[list[str]]:
    """The lines of each replica of a job that has succeeded."""
    done = mw("job", "wait", name)
    logs = [mw.ok("job", "log", name, "--replica", str(rank)) for rank in range(replicas)]
    assert done.returncode == 0, f"{done.stderr}\n{logs}"
    uid = json.loads(mw.ok("get", "job", name, "--json"))["metadata"]["uid"]
    assert leftovers.processes(uid) == []
    return [log.splitlines() for log in logs]


def kubeflow(name: str, kind: str, specs: str, roles: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"apiVersion": "kubeflow.org/v1", "kind": kind, "metadata": {"name": name}, "spec": {specs: roles, **spec}}


@pytest.fixture(scope="module")
def torch_jobs(mw: Mw, code: Path) -> None:
    """Most of their time they import torch: they do it side by side."""
    bare = container("torchrun", "train.py", "rank=$(RANK)", replicas=2)
    submit(mw, code, kubeflow("bare", "PyTorchJob", "pytorchReplicaSpecs", {"Worker": bare}))
    flags = ("--rdzv_backend=c10d", "--rdzv_endpoint=$(MASTER_ADDR):$(MASTER_PORT)", "--nnodes=2")
    elastic = container("torchrun", *flags, "train.py", replicas=2)
    document = kubeflow("elastic", "ElasticBatchJob", "pytorchReplicaSpecs", {"Worker": elastic})
    submit(mw, code, {**document, "apiVersion": "training.pai.alibaba.com/v1"})
    submit(mw, code, native("pair", "torchrun train.py", processes=2))
    named = {
        "DisplayName": "named",
        "JobType": "PyTorchJob",
        "UserCommand": "torchrun --nnodes=$(WORLD_SIZE) --node_rank=$(RANK) --master_addr=$(MASTER_ADDR) "
        "--master_port=$MASTER_PORT --nproc_per_node=$NPROC_PER_NODE train.py",
        "JobSpecs": [{"Type": "Worker", "PodCount": 2, "ResourceConfig": {"CPU": "250m", "Memory": "1Gi"}}],
    }
    submit(mw, code, named, "job.json")


@pytest.mark.usefixtures("torch_jobs")
def test_two_nodes_by_a_bare_torchrun(mw: Mw) -> None:
    for rank, lines in enumerate(finished(mw, "bare", 2)):
        assert lines == [f"rank {rank} of 2, local 0, threads 1, sum 3 rank={rank}"]


@pytest.mark.usefixtures("torch_jobs")
def test_two_processes_of_one_node(mw: Mw) -> None:
    (lines,) = finished(mw, "pair", 1)
    assert sorted(lines) == [f"rank {rank} of 2, local {rank}, threads 1, sum 3" for rank in range(2)]


@pytest.mark.usefixtures("torch_jobs")
def test_flags_that_name_the_variables(mw: Mw) -> None:
    for rank, lines in enumerate(finished(mw, "named", 2)):
        assert lines == [f"rank {rank} of 2, local 0, threads 1, sum 3"]


@pytest.mark.usefixtures("torch_jobs")
def test_an_elastic_job_that_asks_for_c10d(mw: Mw) -> None:
    lines = [line for log in finished(mw, "elastic", 2) for line in log if line.startswith("rank")]
    assert sorted(lines) == [f"rank {rank} of 2, local 0, threads 1, sum 3" for rank in range(2)]


def test_one_process_is_one_rank_without_a_launcher(mw: Mw, code: Path) -> None:
    flags = "--name plain --workers 1 --masters 1 --worker_cpu 250m --worker_memory 1Gi --master_cpu 0.25"
    words = [*flags.split(), "--master-memory", "1Gi", "--command", "python train.py $MW_ROLE", "--code", str(code)]
    mw.ok("job", "submit", "pytorchjob", *words)
    for rank, lines in enumerate(finished(mw, "plain", 2)):
        assert lines == [f"rank {rank} of 2, local 0, threads 1, sum 3 {('master', 'worker')[rank]}"]


def test_a_tensorflow_cluster_ends_with_its_workers(mw: Mw, code: Path) -> None:
    roles = {name: container("python", "cluster.py") for name in ("PS", "Worker", "Chief")}
    submit(mw, code, kubeflow("cluster", "TFJob", "tfReplicaSpecs", roles))
    cluster = "{'chief': 1, 'worker': 1, 'ps': 1}"
    assert finished(mw, "cluster", 3) == [[f"{role} 0 {cluster}"] for role in ("chief", "worker", "ps")]


@pytest.mark.skipif(shutil.which("mpirun") is None, reason="OpenMPI is not installed")
def test_mpirun_reaches_every_replica(mw: Mw, code: Path) -> None:
    launcher = container("mpirun", "-np", "4", "sh", "-c", "echo $MW_ROLE $OMPI_COMM_WORLD_RANK $OMPI_COMM_WORLD_SIZE")
    roles = {"Launcher": launcher, "Worker": container("/usr/sbin/sshd", "-De", replicas=2)}
    submit(mw, code, kubeflow("ring", "MPIJob", "mpiReplicaSpecs", roles, slotsPerWorker=2))
    lines, *_ = finished(mw, "ring", 3)
    assert sorted(lines) == [f"worker {rank} 4" for rank in range(4)]


def test_a_claim_may_name_a_bucket(mw: Mw, code: Path, tmp_path: Path) -> None:
    (tmp_path / "faces.txt").write_text("a b\n")
    mw.ok("bucket", "create", "faces")
    mw.ok("bucket", "upload", str(tmp_path / "faces.txt"), "s3://faces/train/faces.txt")
    worker = container("sh", "-c", "cat /data/faces/train/faces.txt /mnt/more/faces.txt; echo kept > /mnt/output/it")
    pod = worker["template"]["spec"]
    claim = {"persistentVolumeClaim": {"claimName": "faces"}}
    pod["volumes"] = [{"name": "faces", **claim}, {"name": "out", **claim}]
    pod["containers"][0]["volumeMounts"] = [{"name": "faces", "mountPath": "/data/faces"}]
    document = {
        "kind": "PyTorchJob",
        "metadata": {"name": "claims"},
        "spec": {"pytorchReplicaSpecs": {"Worker": worker}},
    }
    (tmp_path / "claims.yaml").write_text(yaml.safe_dump(document))
    validated = mw("job", "validate", "-f", str(tmp_path / "claims.yaml"))
    assert "/data/faces holds the bucket faces read-only" in validated.stderr
    submit(mw, code, native("mounted", "cat /data/faces/faces.txt", mounts={"/data/faces": "s3://faces/train/"}))
    assert finished(mw, "mounted", 1) == [["a b"]]
    pod["containers"][0]["command"][2] = "cat /data/faces/train/faces.txt"
    submit(mw, code, document)
    assert finished(mw, "claims", 1) == [["a b"]]
    mw.ok("delete", "-f", str(tmp_path / "claims.yaml"))
