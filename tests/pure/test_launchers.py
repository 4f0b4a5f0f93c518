"""Who is told to end: the programs that do the work."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.runtime.launchers import Process, hearers, is_launcher, python_program

TERM, ALARM = 1 << (signal.SIGTERM - 1), 1 << (signal.SIGALRM - 1)


def process(pid: int, *argv: str, caught: int = 0) -> Process:
    return Process(pid, argv[0].rpartition("/")[2], argv, caught, pid)


def told(tree: dict[int, tuple[Process, list[int]]]) -> list[int]:
    children = {pid: below for pid, (_, below) in tree.items()}
    return sorted(p.pid for p in hearers([1], children, lambda pid: tree[pid][0] if pid in tree else None))


@pytest.mark.parametrize(
    ("argv", "launches"),
    [
        (("/bin/sh", "-c", "python train.py"), True),
        (("-bash",), True),
        (("timeout", "60", "python", "train.py"), True),
        (("/env/bin/python3.11", "/env/bin/torchrun", "--nproc-per-node", "2", "train.py"), True),
        (("python", "-u", "-m", "torch.distributed.run", "train.py"), True),
        (("python", "-um", "torch.distributed.launch", "train.py"), True),
        (("python", "-mtorch.distributed.run", "train.py"), True),
        (("python", "-W", "ignore", "-X", "dev", "/env/bin/accelerate", "launch", "train.py"), True),
        (("python", "-Wignore", "-m", "deepspeed.launcher.launch"), True),
        (("/usr/bin/mpirun", "-np", "2", "python", "train.py"), True),
        (("orted", "--daemonize"), True),
        (("python", "train.py", "-m", "torch.distributed.run"), False),
        (("python", "-c", "import torch", "torchrun"), False),
        (("python", "-m", "train"), False),
        (("python",), False),
        (("./train",), False),
    ],
)
def test_launchers(argv: tuple[str, ...], launches: bool) -> None:
    assert is_launcher(process(1, *argv)) is launches


def test_a_shell_with_a_trap_is_told_itself_but_not_one_that_cleans_up_at_its_exit() -> None:
    shell = ("bash", "run.sh")
    assert not is_launcher(process(1, *shell, caught=TERM))
    assert is_launcher(process(1, *shell, caught=TERM | ALARM))


def test_the_ranks_are_told_and_not_their_loaders() -> None:
    tree = {
        1: (process(1, "/bin/sh", "-c", "torchrun train.py"), [2]),
        2: (process(2, "python", "/env/bin/torchrun", "train.py"), [3, 4]),
        3: (process(3, "python", "train.py"), [5]),
        4: (process(4, "python", "train.py"), []),
        5: (process(5, "python", "train.py"), []),
    }
    assert told(tree) == [3, 4]


def test_a_filter_ends_with_its_input() -> None:
    shell = process(1, "sh", "-c", "python train.py | tee log")
    tree = {1: (shell, [2, 3]), 2: (process(2, "python", "train.py"), []), 3: (process(3, "tee", "log"), [])}
    assert told(tree) == [2]
    assert told({1: (shell, [3]), 3: tree[3]}) == [1]


def test_a_launcher_with_nothing_below_is_told_itself() -> None:
    assert told({1: (process(1, "sh", "-c", "read x"), [2])}) == [1]
    assert told({1: (process(1, "sh"), [2]), 2: (process(2, "python", "torchrun"), [])}) == [2]


@st.composite
def trees(draw: st.DrawFn) -> dict[int, tuple[Process, list[int]]]:
    count = draw(st.integers(1, 40))
    below: dict[int, list[int]] = {pid: [] for pid in range(1, count + 1)}
    for pid in range(2, count + 1):
        below[draw(st.one_of(st.just(pid - 1), st.integers(1, pid - 1)))].append(pid)
    programs = st.sampled_from([("sh",), ("timeout",), ("tee",), ("python", "torchrun"), ("python", "train.py")])
    return {pid: (process(pid, *draw(programs)), below[pid]) for pid in below}


@given(trees())
def test_somebody_is_told_of_every_tree_and_nobody_below_one_who_is(
    tree: dict[int, tuple[Process, list[int]]],
) -> None:
    found = told(tree)
    assert found or tree[1][0].name == "tee"
    parent = {child: pid for pid, (_, below) in tree.items() for child in below}
    for pid in found:
        above = parent.get(pid)
        while above is not None:
            assert above not in found
            above = parent.get(above)


@given(st.lists(st.text(max_size=6), max_size=8))
def test_any_words_may_follow_python(words: list[str]) -> None:
    python_program(words)
