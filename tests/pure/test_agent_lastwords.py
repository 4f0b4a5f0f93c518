"""Which line of a log says why its program failed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.agent import endings
from modelworks.agent.lastwords import last_words, own_words
from modelworks.agent.stacks import log_lines
from modelworks.kernel.run import Listen, RunKey, RunReason, RunSpec
from modelworks.runtime.rundir import Exited
from modelworks.server.problems import problem_of

REPORT = """\
E1122 09:49:10.659000 3 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 1) local_rank: 1
Traceback (most recent call last):
  File "/venv/bin/torchrun", line 8, in <module>
    sys.exit(main())
  File "/venv/lib/torch/distributed/launcher/api.py", line 383, in launch_agent
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
Failures:
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : 1 (pid: 4)
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-22_09:49:10
  host      : a
  rank      : 1 (local_rank: 1)
  exitcode  : 1 (pid: 5)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================
"""


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("", ""),
        ("step 1\nValueError: no such thing\n\n", "ValueError: no such thing"),
        ("RuntimeError: broke\n=====\n-----\n", "RuntimeError: broke"),
        (
            "step 7\n[rank1]: Traceback (most recent call last):\n[rank1]: RuntimeError: broke\n"
            f"[rank0]: RuntimeError: Connection closed by peer\n{REPORT}",
            "[rank1]: RuntimeError: broke",
        ),
        (f"ModuleNotFoundError: No module named 'nope'\n{REPORT}", "ModuleNotFoundError: No module named 'nope'"),
        (
            "step 7\n"
            + REPORT.replace("To enable traceback see: https", "Signal 11 (SIGSEGV) received by PID 5; https"),
            "rank 1: Signal 11 (SIGSEGV) received by PID 5; https://pytorch.org/docs/stable/elastic/errors.html",
        ),
    ],
    ids=["nothing", "the last", "bars", "the rank that failed first", "before there are ranks", "a signal"],
)
def test_what_says_why_a_program_failed(log: str, said: str) -> None:
    assert last_words(log.splitlines()) == said


@given(st.lists(st.one_of(st.text(), st.sampled_from(REPORT.splitlines()))))
def test_it_is_a_line_of_the_log_whatever_was_written(lines: list[str]) -> None:
    said = last_words(lines)
    assert any(said.split(": ", 1)[-1] in line for line in lines) if said else True


def test_a_request_that_failed_is_no_reason_for_an_end(capsys: pytest.CaptureFixture[str]) -> None:
    problem_of(KeyError("text"))
    lines = capsys.readouterr().err.splitlines()
    assert lines[-2] == "KeyError: 'text'"
    assert last_words(["begun", *lines]) == ""
    assert last_words([*lines, "RuntimeError: broke"]) == "RuntimeError: broke"


@pytest.mark.parametrize(("seconds", "told"), [(1.0, "exit code 3: KeyError: 'text'"), (60.0, "exit code 3")])
def test_what_a_service_said_long_before_its_end_is_no_reason_for_it(seconds: float, told: str) -> None:
    key = str(RunKey("0" * 32, "a1", 0, 0))
    service = RunSpec(key=key, workspace="w", kind="Service", name="s", command=("x",), listen=Listen())
    ended = Exited(3, None, 1000.0)
    assert endings.explain(service, ended, None, None, ["KeyError: 'text'"], 1000.0 - seconds)[1] == told
    job = service.model_copy(update={"listen": None})
    assert endings.explain(job, ended, None, None, ["KeyError: 'text'"], 1000.0 - seconds)[1].endswith("'text'")


@pytest.mark.parametrize(
    "said",
    [
        "train.py: error: unrecognized arguments: --bf16=true --deepspeed ds.json",
        "ValueError: Some specified arguments are not used by the HfArgumentParser: ['--bf16=true']",
        "Error: No such option: --bf16",
    ],
)
def test_arguments_that_the_script_does_not_know_come_with_a_hint(said: str) -> None:
    job = RunSpec(key=str(RunKey("0" * 32, "a1", 0, 0)), workspace="w", kind="TrainingJob", name="j", command=("x",))
    hint = "the script knows no such arguments: take them out of the command, or let its parser know them"
    assert endings.explain(job, Exited(2, None, 1.0), None, None, ["usage: train.py", said]) == (
        RunReason.FAILED,
        f"exit code 2: {said}; {hint}",
    )
    passing = job.model_copy(update={"env": {"PAI_USER_ARGS": "--bf16 true"}})
    told = endings.explain(passing, Exited(2, None, 1.0), None, None, [said])[1]
    assert "or of the hyperparameters, which $PAI_USER_ARGS passes" in told


@given(st.lists(st.sampled_from(["step 1", "", "modelworks: cannot start: no such file", "Traceback"])))
def test_stacks_among_the_lines_are_not_the_programs_words(lines: list[str]) -> None:
    stacks = log_lines("process 1 `python`: sleeping\n    main (train.py:3)").decode().splitlines()
    assert own_words(lines) == lines
    assert own_words(["before", *stacks, "after", *stacks, *stacks]) == ["before", "after"]
