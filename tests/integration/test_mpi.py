"""MPI jobs: replicas that have no ssh between them, and a real `mpirun` that starts its processes on all of them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.agents import poll

from modelworks.products.training.local import run
from modelworks.runtime import mpi

pytestmark = pytest.mark.timeout(120)
needs_openmpi = pytest.mark.skipif(shutil.which("mpirun") is None, reason="OpenMPI is not installed")


def job(**spec: Any) -> dict[str, Any]:
    return {"kind": "TrainingJob", "metadata": {"name": "ring"}, "spec": {"framework": "mpi", **spec}}


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        trials = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [int(trial.getsockname()[1]) for trial in trials]


def listens(port: int) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@contextmanager
def hosts(count: int) -> Iterator[tuple[dict[str, str], list[subprocess.Popen[bytes]]]]:
    """Replicas that wait, and the variables of rank 0."""
    ports = free_ports(count + 1)
    names = ",".join(f"h-{number}=127.0.0.1:{port}" for number, port in enumerate(ports))
    env = {**os.environ, "MW_MPI_HOSTS": names, "MW_MPI_SECRET": "s", "MW_MPI_HOST": "h-0"}
    command = [sys.executable, "-m", "modelworks.runtime.mpi", "host"]
    waiting = [
        subprocess.Popen(command, env={**env, "MW_MPI_HOST": f"h-{number + 1}"}, stdout=subprocess.PIPE)
        for number in range(count)
    ]
    try:
        for port in ports[1:]:
            poll(lambda port=port: listens(port))  # type: ignore[misc]
        yield env, waiting
    finally:
        for one in waiting:
            one.terminate()
            one.communicate()


def of_rank_zero(env: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "modelworks.runtime.mpi", *arguments]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)


@needs_openmpi
def test_a_process_on_every_replica(tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = f"mpirun -np 4 sh -c 'echo $OMPI_COMM_WORLD_SIZE $RANK > {output}-$OMPI_COMM_WORLD_RANK'"
    assert run(job(command=command, replicas=2, processes=2), tmp_path / "run") == 0
    found = [(tmp_path / f"out-{rank}").read_text().split() for rank in range(4)]
    assert found == [["4", "0"], ["4", "0"], ["4", "1"], ["4", "1"]]


@needs_openmpi
def test_a_launcher_computes_nothing_itself(tmp_path: Path) -> None:
    roles = [{"name": "launcher"}, {"name": "worker", "replicas": 2}]
    command = f"mpirun --hostfile /etc/mpi/hostfile sh -c 'echo $MW_ROLE $MW_ROLE_INDEX > {tmp_path}/$RANK'"
    assert run(job(command=command, roles=roles), tmp_path / "run") == 0
    assert [(tmp_path / str(rank)).read_text().split() for rank in (1, 2)] == [["worker", "0"], ["worker", "1"]]
    assert not (tmp_path / "0").exists()


@needs_openmpi
def test_the_exit_code_of_a_rank_is_the_jobs(tmp_path: Path) -> None:
    command = "mpirun -np 2 sh -c 'test $OMPI_COMM_WORLD_RANK = 0 || exit 5'"
    assert run(job(command=command, replicas=2), tmp_path / "run") == 5


def test_the_others_end_with_rank_zero_whatever_became_of_it() -> None:
    with hosts(2) as (env, waiting):
        done = of_rank_zero(env, "launch", "--", "sh", "-c", "exit 3")
        assert done.returncode == 3, done.stderr
        assert [one.wait(30) for one in waiting] == [0, 0]


def test_a_remote_shell_of_our_own() -> None:
    with hosts(1) as (env, _):
        done = of_rank_zero(env, "rsh", "-x", "h-1", "echo $MW_MPI_HOST;", "exit", "4")
        assert (done.returncode, "h-1 with exit code 4" in done.stderr) == (4, True), done.stderr
        assert of_rank_zero(env, "rsh", "h-0", "exit 2").returncode == 2
        unknown = of_rank_zero(env, "rsh", "h-7", "true")
        assert (unknown.returncode, "those are h-0, h-1" in unknown.stderr) == (255, True)


def test_what_still_runs_at_the_end_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    with hosts(1) as (env, waiting):
        command = [sys.executable, "-m", "modelworks.runtime.mpi", "rsh", "h-1", f"read word < {tmp_path}/gate; exit 7"]
        remote = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
        with (tmp_path / "gate").open("w") as gate:  # opened once it is read
            assert of_rank_zero(env, "launch", "--", "true").returncode == 0
            assert waiting[0].poll() is None
            gate.write("on\n")
        assert "h-1 with exit code 7" in remote.communicate(timeout=30)[1]
        assert (remote.returncode, waiting[0].wait(30)) == (7, 0)


def test_who_does_not_know_the_secret_runs_nothing(tmp_path: Path) -> None:
    with hosts(1) as (env, waiting):
        assert of_rank_zero(env, "rsh", "h-1", "true").returncode == 0
        stranger = of_rank_zero({**env, "MW_MPI_SECRET": "other"}, "rsh", "h-1", f"touch {tmp_path}/made")
        assert stranger.returncode == 255
        assert "does not agree" in stranger.stderr
        place = mpi.hosts(env["MW_MPI_HOSTS"])["h-1"]
        with socket.create_connection(place) as connection:
            connection.sendall(b'{"ask": "run", "command": "true", "proof": "' + b"0" * 64 + b'"}\n')
            line = mpi.Line(connection)
            assert set(line.hear() or {}) == {"challenge"}
            assert line.hear() is None
        assert list(tmp_path.iterdir()) == []
        assert waiting[0].poll() is None


def test_a_missing_launcher_is_named(tmp_path: Path) -> None:
    with hosts(0) as (env, _):
        bare = {**env, "PATH": str(tmp_path)}
        done = of_rank_zero(bare, "launch", "--", "/bin/sh", "-c", "mpirun -np 2 true")
        assert done.returncode == 127
        assert "there is no mpirun: install OpenMPI" in done.stderr
