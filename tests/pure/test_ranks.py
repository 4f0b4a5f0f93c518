"""The environment contract of a job's replicas."""

from __future__ import annotations

import json
import shlex
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.embedded import seaweedfs
from modelworks.kernel.run import Resources
from modelworks.products.training import frameworks
from modelworks.products.training.gang import Gang, Place, master_port, role_names
from modelworks.products.training.ranks import (
    JobIdentity,
    channel_variable,
    hyperparameter_texts,
    hyperparameter_variables,
    process_count,
    replica_variables,
)
from modelworks.products.training.spec import TrainingJobSpec
from modelworks.products.workload import arguments, expand, expand_variables

UID = "abcdef12"
HERE, THERE = Place("a", "10.0.0.1", "eth0"), Place("b", "10.0.0.2", "ens5")


def spec_of(**fields: Any) -> TrainingJobSpec:
    return TrainingJobSpec.parse({"command": "x"} | fields)


def gang_of(spec: TrainingJobSpec, *places: Place) -> Gang:
    return Gang.of(spec, UID, 2, dict(enumerate(places or [Place("a")] * spec.size)))


def told(spec: TrainingJobSpec, ordinal: int, *places: Place, cpu: int = 4000, gpu: int = 0) -> dict[str, str]:
    gang = gang_of(spec, *places)
    identity = JobIdentity(UID, "digits", 2)
    return replica_variables(
        identity, spec, gang, gang.member(ordinal), Resources.parse({"cpu": f"{cpu}m", "gpu": gpu})
    )


def test_one_machine_variables() -> None:
    found = told(spec_of(replicas=3), 1)
    assert found["RANK"] == found["PET_NODE_RANK"] == "1"
    assert found["WORLD_SIZE"] == found["PET_NNODES"] == "3"
    assert found["NPROC_PER_NODE"] == found["PET_NPROC_PER_NODE"] == "1"
    assert found["MASTER_ADDR"] == found["PET_MASTER_ADDR"] == "127.0.0.1"
    assert found["MASTER_PORT"] == found["PET_MASTER_PORT"] == str(master_port(UID, 2))
    assert found["GLOO_SOCKET_IFNAME"] == found["NCCL_SOCKET_IFNAME"] == "lo"
    assert (found["MW_JOB"], found["MW_ATTEMPT"]) == ("digits", "2")
    assert (found["LOCAL_RANK"], found["LOCAL_WORLD_SIZE"]) == ("0", "1")


def test_several_machines_meet_at_rank_zeros_by_their_own_interfaces() -> None:
    spec = spec_of(replicas=2)
    first, second = (told(spec, ordinal, HERE, THERE) for ordinal in (0, 1))
    assert first["MASTER_ADDR"] == second["PET_MASTER_ADDR"] == "10.0.0.1"
    assert (first["NCCL_SOCKET_IFNAME"], second["GLOO_SOCKET_IFNAME"]) == ("eth0", "ens5")


def test_two_replicas_on_one_of_several_machines_use_its_loopback() -> None:
    found = told(spec_of(replicas=2), 1, HERE, HERE)
    assert (found["MASTER_ADDR"], found["GLOO_SOCKET_IFNAME"]) == ("127.0.0.1", "lo")


def test_processes_follow_the_gpus_unless_said() -> None:
    assert told(spec_of(), 0, gpu=4)["NPROC_PER_NODE"] == "4"
    found = told(spec_of(processes=2), 0, gpu=4)
    assert found["PET_NPROC_PER_NODE"] == "2"
    assert "LOCAL_RANK" not in found  # which of the two would it be?


@given(cpu=st.integers(1, 256_000), processes=st.integers(1, 64))
def test_processes_share_the_cores(cpu: int, processes: int) -> None:
    found = told(spec_of(processes=processes), 0, cpu=cpu)
    threads = int(found["OMP_NUM_THREADS"])
    assert found["MKL_NUM_THREADS"] == found["OPENBLAS_NUM_THREADS"] == found["OMP_NUM_THREADS"]
    assert threads == 1 or threads * processes <= -(-cpu // 1000)
    assert threads >= 1


@given(uid=st.text("abcdef0123456789", min_size=6, max_size=32), attempt=st.integers(1, 1000))
def test_master_port_is_below_the_ephemeral_ports_and_stable(uid: str, attempt: int) -> None:
    port = master_port(uid, attempt)
    assert 23_000 <= port < 30_000
    assert not seaweedfs.PORT_RANGE.start <= port < seaweedfs.PORT_RANGE.stop, "the embedded object store is there"
    assert port == master_port(uid, attempt)


@given(
    counts=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    gone=st.sets(st.integers(0, 15)),
    nodes=st.lists(st.sampled_from([HERE, THERE]), min_size=16, max_size=16),
)
def test_ranks_are_whole_whoever_is_missing(counts: list[int], gone: set[int], nodes: list[Place]) -> None:
    spec = spec_of(roles=[{"name": f"r{n}", "replicas": count} for n, count in enumerate(counts)])
    there = [ordinal for ordinal in range(spec.size) if ordinal not in gone or ordinal == 0]
    gang = Gang.of(spec, UID, 1, {ordinal: nodes[ordinal] for ordinal in there})
    assert [member.rank for member in gang.members] == list(range(len(there)))
    assert [member.ordinal for member in gang.members] == there
    for role in gang.roles:
        assert [member.index for member in gang.of_role(role)] == list(range(len(gang.of_role(role))))
    assert [gang.member(o).role for o in there] == [role_names(spec)[o] for o in there]
    ports = [gang.port_of(member) for member in gang.members]
    assert len(set(ports)) == len(ports)
    for member in gang.members:
        met = gang.rendezvous(member, network=True, timeout=30)
        if gang.size == 1:
            assert met is None
        else:
            assert met is not None
            assert (met.rank, len(met.peers), met.peers[0].port) == (member.rank, gang.size, gang.port)
            assert met.peers[member.rank].node == member.place.node
            assert {peer.address for peer in met.peers} == ({"127.0.0.1"} if gang.local else {"10.0.0.1", "10.0.0.2"})


def test_every_attempt_has_a_secret_of_its_own() -> None:
    spec = spec_of(replicas=2)
    nonces = {Gang.of(spec, uid, n, {0: HERE, 1: HERE}).nonce for uid in ("abcdef", "fedcba") for n in (1, 2)}
    assert len(nonces) == 4


def test_an_elastic_job_has_the_size_of_its_attempt() -> None:
    found = told(spec_of(replicas={"min": 2, "max": 5}), 2, HERE, THERE, HERE)
    assert (found["PET_NNODES"], found["WORLD_SIZE"], found["PET_NODE_RANK"]) == ("3", "3", "2")


@given(nodes=st.lists(st.sampled_from([HERE, THERE]), min_size=2, max_size=300))
def test_every_replica_has_an_address_of_its_own_that_leads_to_it(nodes: list[Place]) -> None:
    gang = gang_of(spec_of(replicas=len(nodes)), *nodes)
    found = [frameworks.pytorch(gang, member, processes=1)["PET_LOCAL_ADDR"] for member in gang.members]
    assert len(set(found)) == len(found)
    for member, text in zip(gang.members, found, strict=True):
        packed = socket.inet_aton(text)
        assert packed[0] == 127 if gang.local else socket.inet_ntoa(packed) == member.place.address


ROLES = [
    {"name": "chief"},
    {"name": "ps", "replicas": 2},
    {"name": "worker", "replicas": 2},
    {"name": "evaluator"},
]


def test_tf_config_names_every_task_but_the_evaluators() -> None:
    spec = spec_of(framework="tensorflow", roles=ROLES)
    configs = [json.loads(told(spec, ordinal)["TF_CONFIG"]) for ordinal in range(6)]
    port = master_port(UID, 2)
    assert configs[0]["cluster"] == {
        "chief": [f"127.0.0.1:{port}"],
        "ps": [f"127.0.0.1:{port + 1}", f"127.0.0.1:{port + 2}"],
        "worker": [f"127.0.0.1:{port + 3}", f"127.0.0.1:{port + 4}"],
    }
    assert all(config["cluster"] == configs[0]["cluster"] for config in configs)
    assert [tuple(config["task"].values()) for config in configs] == [
        ("chief", 0), ("ps", 0), ("ps", 1), ("worker", 0), ("worker", 1), ("evaluator", 0),
    ]  # fmt: skip


def test_tf_config_of_workers_alone() -> None:
    found = json.loads(told(spec_of(framework="tensorflow", replicas=2), 1, HERE, THERE)["TF_CONFIG"])
    port = master_port(UID, 2)
    assert found["cluster"] == {"worker": [f"10.0.0.1:{port}", f"10.0.0.2:{port + 1}"]}
    assert found["task"] == {"type": "worker", "index": 1}


def test_a_launcher_beside_workers_has_no_slots() -> None:
    spec = spec_of(framework="mpi", processes=2, roles=[{"name": "launcher"}, {"name": "worker", "replicas": 2}])
    slots = dict.fromkeys(range(3), process_count(spec, Resources()))
    text = frameworks.host_file(gang_of(spec), name="digits", slots=slots)
    assert text == "digits-1 slots=2\ndigits-2 slots=2\n"
    alone = spec_of(framework="mpi", replicas=2)
    text = frameworks.host_file(gang_of(alone), name="my.job", slots={0: 1, 1: 4})
    assert text == "my.job-0 slots=1\nmy.job-1 slots=4\n"


def test_mpi_hosts_are_found_at_their_ports() -> None:
    found = told(spec_of(framework="mpi", replicas=2), 1, HERE, THERE)
    port = master_port(UID, 2)
    assert found["MW_MPI_HOSTS"] == f"digits-0=10.0.0.1:{port},digits-1=10.0.0.2:{port + 1}"
    assert (found["MW_MPI_HOST"], found["OMPI_MCA_btl_tcp_if_include"]) == ("digits-1", "ens5")
    assert found["MW_HOSTFILE"] == found["OMPI_MCA_orte_default_hostfile"] == "/etc/mpi/hostfile"


@pytest.mark.parametrize("ordinal", [0, 1])
def test_only_rank_zero_runs_an_mpi_command(ordinal: int) -> None:
    gang = gang_of(spec_of(framework="mpi", replicas=2))
    command = frameworks.mpi_command(gang.member(ordinal), ("mpirun", "x"))
    assert command[3:] == (("launch", "--", "mpirun", "x") if ordinal == 0 else ("host",))


def test_hyperparameters_as_text() -> None:
    values: dict[str, str | int | float | bool] = {"lr": 0.001, "epochs": 3, "bf16": True, "name": "a b"}
    assert hyperparameter_texts(values) == {"lr": "0.001", "epochs": "3", "bf16": "true", "name": "a b"}
    variables = hyperparameter_variables(values)
    assert variables["PAI_HPS_LR"] == "0.001"
    assert json.loads(variables["PAI_HPS"])["bf16"] == "true"
    assert shlex.split(variables["PAI_USER_ARGS"])[-2:] == ["--name", "a b"]
    assert hyperparameter_variables({}) == {}


def test_channel_variable() -> None:
    assert channel_variable("train-data") == "MW_INPUT_TRAIN_DATA"


def test_expansion() -> None:
    known = {"RANK": "1", "EMPTY": ""}
    assert expand("--rank=$(RANK) $(EMPTY)|", known) == "--rank=1 |"
    assert expand("$(date) $(UNKNOWN) $RANK ${RANK}", known) == "$(date) $(UNKNOWN) $RANK ${RANK}"
    assert expand("$$(RANK)", known) == "$(RANK)"
    assert expand_variables({"A": "$(RANK)0", "B": "$(A)$(A)"}, known) == {"A": "10", "B": "1010"}


@given(st.text())
def test_text_without_known_names_is_left_alone(text: str) -> None:
    assert expand(text.replace("$", ""), {"RANK": "1"}) == text.replace("$", "")


def test_arguments() -> None:
    assert arguments("python a.py") == ("/bin/sh", "-c", "python a.py")
    assert arguments(("python", "a.py")) == ("python", "a.py")
