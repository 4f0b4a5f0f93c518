"""Stacks of what a run does, read from outside: threads, children, programs that are no Python, processes that hang."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agents import AgentProcess, poll, python, run_spec, running_agent, wait_for, wait_log

from modelworks.agent import stacks
from modelworks.home import Home
from modelworks.kernel.run import RunPhase
from modelworks.runtime import processes


@pytest.fixture
def agent(home: Home) -> Iterator[AgentProcess]:
    with running_agent(home) as agent:
        yield agent


HANGING = """
import subprocess, threading, sys
def waits_for_ever():
    threading.Event().wait()
def in_another_thread():
    waits_for_ever()
threading.Thread(target=in_another_thread, name="loader", daemon=True).start()
child = subprocess.Popen(["sleep", "600"])
print("begun", flush=True)
waits_for_ever()
"""


def test_threads_of_a_python_and_its_children_are_told(agent: AgentProcess) -> None:
    run = python(0, HANGING)
    agent.client.ensure(run)
    wait_log(agent.client, run.key, b"begun")
    text = agent.client.stacks(run.key)
    main, loader = text.index("MainThread"), text.index("loader")
    assert main < loader
    assert "waits_for_ever (<string>:4)" in text[main:loader]
    assert "in_another_thread (<string>:6)" in text[loader:]
    # By the kernel's word: of a sandbox's threads py-spy knows none by its number.
    assert text[main:].startswith("MainThread (waits)")
    assert text[loader:].startswith("loader (waits)")
    # No Python: the kernel's word.
    assert "`sleep 600`: sleeping" in text
    assert "bwrap" not in text


def test_a_stopped_process_tells_too(agent: AgentProcess) -> None:
    """The tracer of a process that SIGSTOP holds would wait for it; the kernel's word is there in any case."""
    run = python(0, HANGING)
    agent.client.ensure(run)
    wait_log(agent.client, run.key, b"begun")
    tree = processes.with_variable("MW_RUN", run.key)
    hung = next(pid for pid in tree if Path(f"/proc/{pid}/exe").resolve().name.startswith("python") and _begun(pid))
    os.kill(hung, signal.SIGSTOP)
    poll(lambda: Path(f"/proc/{hung}/stat").read_text().rpartition(")")[2].split()[0] == "T")
    text = agent.client.stacks(run.key)
    assert "stopped by a signal" in text
    assert "waits_for_ever" in text
    assert Path(f"/proc/{hung}/stat").read_text().rpartition(")")[2].split()[0] == "T", "it was left as it was"


def _begun(pid: int) -> bool:
    return b"waits_for_ever" in Path(f"/proc/{pid}/cmdline").read_bytes()


def test_a_recorded_capture_is_in_the_log_as_the_platforms_words(agent: AgentProcess) -> None:
    run = run_spec(0, "sh", "-c", "echo here; sleep 600; echo there")
    agent.client.ensure(run)
    wait_log(agent.client, run.key, b"here")
    wait_for(agent.client, run.key, lambda seen: seen.phase is RunPhase.RUNNING)
    poll(lambda: "sleep 600" in agent.client.stacks(run.key))
    text = agent.client.stacks(run.key, record=True)
    log = wait_log(agent.client, run.key, b"modelworks: ").decode().splitlines()
    assert log[0] == "here"
    assert log[1].startswith("modelworks: what every process does, at 2")
    assert [line.removeprefix("modelworks: ") for line in log[2:]] == text.splitlines()


def test_many_processes_and_long_names_are_bounded(agent: AgentProcess) -> None:
    program = """
import os, time
for _ in range(100):
    if os.fork() == 0:
        time.sleep(600)
print("begun", flush=True)
time.sleep(600)
"""
    run = python(0, program)
    agent.client.ensure(run)
    wait_log(agent.client, run.key, b"begun")
    text = agent.client.stacks(run.key)
    assert len(text) <= stacks.LIMIT + 100
    assert "more processes" in text


def test_what_py_spy_says_becomes_what_to_do() -> None:
    assert "ptrace_scope=0" in stacks.explain("Error: Permission Denied: Try running again with elevated permissions")
    assert stacks.explain("Error: Failed to find a python interpreter\nReason: nothing\n") == (
        "Failed to find a python interpreter; nothing"
    )


def test_names_that_a_workload_chooses_cannot_move_a_cursor() -> None:
    frames = [{"name": "f\x1b[2J", "short_filename": "a\nb.py", "line": 3}]
    (head, frame) = stacks.format_threads([{"thread_name": "MainThread", "active": True, "frames": frames}])
    assert head == "  MainThread (works)"
    assert stacks._bounded([frame]) == "    f?[2J (a?b.py:3)"


def test_the_frames_of_an_import_are_those_of_the_modules() -> None:
    frames = [
        {"name": "<module>", "filename": "/v/torch/fx.py", "short_filename": "torch/fx.py", "line": 3},
        {"name": "_find_and_load", "filename": "<frozen importlib._bootstrap>", "line": 1176},
        {"name": "exec_module", "filename": "<frozen importlib._bootstrap_external>", "line": 940},
        {"name": "<module>", "filename": "/code/train.py", "short_filename": "train.py", "line": 1},
    ]
    (_, *shown) = stacks.format_threads([{"thread_name": "MainThread", "active": True, "frames": frames}])
    assert shown == ["    <module> (torch/fx.py:3)", "    <module> (train.py:1)"]
