"""What may go wrong on a node between two steps: half started, full disks, what cannot be read or deleted."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest
from tests.agents import observe, poll, python, run_spec, wait_ended

from modelworks.agent.inprocess import InProcessAgent
from modelworks.agent.outputs import walk
from modelworks.home import Home
from modelworks.kernel.errors import Invalid
from modelworks.kernel.run import RunPhase, RunReason
from modelworks.runtime import shim
from modelworks.runtime.local import kill_all
from modelworks.runtime.rundir import RunStore, remove_tree


def test_a_shim_of_an_earlier_agent_that_is_about_to_start_is_waited_for(home: Home) -> None:
    run = run_spec(0, "true")
    store = RunStore(home.agent / "runs")
    store.prepare()
    directory, _ = store.create(run)
    shim_of_before = directory.claim()
    assert shim_of_before is not None
    with InProcessAgent(home) as agent:
        assert observe(agent, run.key).phase is RunPhase.PREPARING
        assert directory.read("launch.json") is None
        os.close(shim_of_before)
        assert wait_ended(agent, run.key).reason is RunReason.COMPLETED


def test_a_preparation_from_before_the_machine_restarted_is_made_again(home: Home) -> None:
    run = python(0, "print('in')")
    store = RunStore(home.agent / "runs")
    store.prepare()
    directory, _ = store.create(run)
    gone = {"argv": ["/gone"], "env": {}, "cwd": "/", "log": "/gone/log", "monitor": False, "cgroups": ["/gone"]}
    directory.write("launch.json", gone | {"affinity": [], "nice": 0, "rlimits": {}, "gpus": []})
    directory.work.mkdir()
    (directory.work / "link").symlink_to("nowhere")  # a copy of the code that was cut short
    with InProcessAgent(home) as agent:
        assert wait_ended(agent, run.key).reason is RunReason.COMPLETED
        assert agent.log(run.key) == b"in\n"


def test_a_full_disk_delays_the_exit_status_and_does_not_lose_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write = os.write
    pauses: list[float] = []

    def full(descriptor: int, data: bytes) -> int:
        return write(descriptor, data) if pauses else write(descriptor, data[:3])

    monkeypatch.setattr(os, "write", full)
    monkeypatch.setattr(time, "sleep", pauses.append)
    shim.write_exited('{"code":7}')
    assert (len(pauses), (tmp_path / "exited").read_text()) == (1, '{"code":7}')


def test_a_full_disk_delays_the_result_and_says_so(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    run = run_spec(0, "sh", "-c", "exit 3")
    directory = RunStore(home.agent / "runs").directory(run.key)
    with InProcessAgent(home) as agent:
        blocked = True
        original = type(directory).write_result

        def write_result(self: object, result: object) -> None:
            if blocked:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            original(self, result)  # type: ignore[arg-type]

        monkeypatch.setattr(type(directory), "write_result", write_result)
        agent.ensure(run)
        poll(lambda: "disk of the node is full" in observe(agent, run.key).message)
        assert not observe(agent, run.key).phase.ended
        blocked = False
        seen = wait_ended(agent, run.key)
        assert (seen.reason, seen.exit_code) == (RunReason.FAILED, 3)
        kill_all(home, grace=0.0)


def nest(root: Path, depth: int) -> None:
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=descriptor)
        inner = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)


def test_what_is_nested_too_deeply_is_told_and_deleted(tmp_path: Path) -> None:
    root = tmp_path / "output"
    root.mkdir()
    nest(root, 3000)
    with pytest.raises(Invalid, match="nested too deeply"):
        list(walk(root, links=True))
    remove_tree(root)
    assert not root.exists()


def test_a_name_that_is_not_text_is_told(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"caf\xe9")).write_bytes(b"x")
    with pytest.raises(Invalid, match="not UTF-8"):
        list(walk(tmp_path))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_an_output_that_cannot_be_read_is_never_left_out_in_silence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "closed"
    path.mkdir() if kind == "folder" else path.write_text("x")
    path.chmod(0)
    with pytest.raises(Invalid, match="closed cannot be read"):
        list(walk(tmp_path, links=True))
    assert list(walk(tmp_path)) == []
    remove_tree(tmp_path / "closed")


def test_pipes_devices_and_links_out_are_no_outputs(tmp_path: Path) -> None:
    output, outside = tmp_path / "output", tmp_path / "secret"
    output.mkdir()
    outside.write_text("secret")
    os.mkfifo(output / "pipe")
    (output / "link").symlink_to(outside)
    (output / "folder").symlink_to(tmp_path)
    (output / "own").write_text("x")
    (output / "alias").symlink_to("own")
    found = list(walk(output, links=True))
    for one in found:
        os.close(one.descriptor)
    assert sorted(one.path for one in found) == ["alias", "own"]
