"""The variables by which the processes of a job become one program: torchrun's, TensorFlow's, OpenMPI's. Pure."""

from __future__ import annotations

import json
import re

from modelworks.products.training.gang import Gang, Member

HOST_FILE = "/etc/mpi/hostfile"
LAUNCHER_ROLE = "launcher"
# A part of TensorFlow's training cluster that only looks on: it is told of the cluster and is not in it.
_EVALUATOR = "evaluator"
_REMOTE_SHELL = "python3 -m modelworks.runtime.mpi rsh"


def pytorch(gang: Gang, member: Member, *, processes: int) -> dict[str, str]:
    """torchrun's own defaults, so that ``torchrun train.py`` without a flag finds its peers.

    An elastic job's too: each of its attempts has one size from its beginning to its end.
    """
    found = {
        "PET_NNODES": str(gang.size),
        "PET_NODE_RANK": str(member.rank),
        "PET_NPROC_PER_NODE": str(processes),
        "PET_MASTER_ADDR": gang.master,
        "PET_MASTER_PORT": str(gang.port),
    }
    if processes == 1:
        # One process is one rank: what torchrun would tell it. torchrun's own processes are told anew.
        found |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    if gang.size > 1:
        found["PET_LOCAL_ADDR"] = _distinct(gang, member)
    return found | collectives(gang, member)


def _distinct(gang: Gang, member: Member) -> str:
    """An address of the member's own, for who asks torchrun for the rendezvous ``c10d``.

    That takes those for one who have the same address and process number, as the first programs of two sandboxes have,
    and by itself would tell its peers a host name that nobody resolves. So on one machine each has another loopback
    address; and of several on one node those after the first write their address in another way.
    """
    if gang.local:
        return f"127.0.{(member.rank + 1) >> 8}.{(member.rank + 1) & 255}"
    address = gang.address(member)
    before = sum(gang.address(one) == address for one in gang.members[: member.rank])
    first, dot, rest = address.partition(".")
    if not before or not dot or not first.isdigit():
        return address
    return f"0x{'0' * before}{int(first):x}.{rest}"


def collectives(gang: Gang, member: Member) -> dict[str, str]:
    """Gloo, NCCL and Horovod on the interface by which the gang is joined; by themselves they guess."""
    interface = gang.interface(member)
    return {
        "GLOO_SOCKET_IFNAME": interface,
        "TP_SOCKET_IFNAME": interface,
        "NCCL_SOCKET_IFNAME": interface,
        "HOROVOD_GLOO_IFACE": interface,
        "NCCL_DEBUG": "WARN",
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "1",
    }


def tensorflow(gang: Gang, member: Member) -> dict[str, str]:
    """``TF_CONFIG``: the cluster by role, a port for each task, and which of them this one is."""
    cluster = {
        role: [f"{gang.address(one)}:{gang.port_of(one)}" for one in gang.of_role(role)]
        for role in gang.roles
        if role != _EVALUATOR
    }
    task = {"type": member.role, "index": member.index}
    config = json.dumps({"cluster": cluster, "task": task, "environment": "cloud"}, separators=(",", ":"))
    return {"TF_CONFIG": config} | collectives(gang, member)


def mpi(gang: Gang, member: Member, *, name: str) -> dict[str, str]:
    """OpenMPI finds the hosts by itself, and starts its daemons on them through ``modelworks.runtime.mpi``."""
    interface = gang.interface(member)
    hosts = ",".join(f"{_host(name, one)}={gang.address(one)}:{gang.port_of(one)}" for one in gang.members)
    both = {
        "OMPI_MCA_orte_default_hostfile": HOST_FILE,
        "PRTE_MCA_prte_default_hostfile": HOST_FILE,
        "OMPI_MCA_plm_rsh_agent": _REMOTE_SHELL,
        "PRTE_MCA_plm_ssh_agent": _REMOTE_SHELL,
        # Rank 0 alone may start something on the others. What is started stays below who started it, where signals
        # reach it.
        "OMPI_MCA_plm_rsh_no_tree_spawn": "1",
        "PRTE_MCA_plm_ssh_no_tree_spawn": "1",
        "OMPI_MCA_orte_leave_session_attached": "1",
        "PRTE_MCA_prte_leave_session_attached": "1",
        # Each replica has these variables itself, with values of its own.
        "OMPI_MCA_plm_rsh_pass_environ_mca_params": "0",
        # Two daemons on one machine crash over the map of its cores that they would share.
        "OMPI_MCA_rtc_hwloc_vmhole": "none",
        # A job's name may hold dots.
        "OMPI_MCA_orte_keep_fqdn_hostnames": "1",
        "PRTE_MCA_prte_keep_fqdn_hostnames": "1",
        "OMPI_MCA_oob_tcp_if_include": interface,
        "PRTE_MCA_prte_if_include": interface,
        "OMPI_MCA_btl_tcp_if_include": interface,
        # A sandbox has neither /sys nor devices for InfiniBand: UCX would only complain, and hand over to these.
        "OMPI_MCA_pml": "ob1",
        "OMPI_MCA_osc": "^ucx",
        "HWLOC_HIDE_ERRORS": "2",
        # Where there is no sandbox, or in an image, a workload may be root.
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_ALLOW_RUN_AS_ROOT": "1",
        "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    }
    own = {"MW_HOSTFILE": HOST_FILE, "MW_MPI_HOSTS": hosts, "MW_MPI_HOST": _host(name, member)}
    return both | own | {"MW_MPI_SECRET": gang.nonce} | collectives(gang, member)


def host_file(gang: Gang, *, name: str, slots: dict[int, int]) -> str:
    """A line for each replica that computes, with its slots (by ordinal); a launcher beside workers has none."""
    computing = [one for one in gang.members if one.role != LAUNCHER_ROLE] or list(gang.members)
    return "".join(f"{_host(name, one)} slots={slots[one.ordinal]}\n" for one in computing)


def mpi_command(member: Member, command: tuple[str, ...]) -> tuple[str, ...]:
    """Rank 0 runs the command once the others are there; they run what its ``mpirun`` asks them to."""
    helper = ("python3", "-m", "modelworks.runtime.mpi")
    return (*helper, "launch", "--", *command) if member.rank == 0 else (*helper, "host")


def _host(name: str, member: Member) -> str:
    """As the replica's machine is called in its sandbox, so that ``mpirun`` knows its own."""
    return f"{re.sub(r'[^a-z0-9.-]', '-', name)[:50]}-{member.ordinal}"
