"""What several gateway processes count together, by real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from modelworks.gateway.shared import PROCESSES, ROWS, Shared
from modelworks.kernel.errors import SetupFailed

LIMIT = 3
WORKER = f"""
import sys
from pathlib import Path
from modelworks.gateway.shared import Shared
shared = Shared(Path(sys.argv[1]))
row = shared.row("replica")
print("ready", flush=True)
sys.stdin.readline()
took = refused = 0
while took < 3000:
    if row.take({LIMIT}):
        took += 1
        assert row.busy <= {LIMIT}, row.busy
        if took % 50 == 0:
            for _ in range(2000): pass  # hold it for a moment
        row.give()
    else:
        refused += 1
print(refused, flush=True)
if row.join(5, 0):
    row.show(1, 7.0)
assert row.take({LIMIT})
print("held", flush=True)
sys.stdin.readline()
"""


def worker(path: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def line(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def go(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def test_the_limit_holds_over_processes_and_a_dead_ones_share_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "shared"
    shared = Shared(path)
    row = shared.row("replica")
    assert row is not None
    children = [worker(path) for _ in range(LIMIT)]
    try:
        assert [line(child) for child in children] == ["ready"] * LIMIT
        assert len(shared.others()) == LIMIT
        for child in children:
            go(child)
        for child in children:
            assert line(child).isdigit()
            assert line(child) == "held"
        assert (row.busy, row.waiting) == (LIMIT, LIMIT)
        assert not row.take(LIMIT)
        assert row.take(LIMIT + 1)
        row.give()
        assert not row.join(LIMIT, 0)
        assert row.first(5.0) is None
        assert row.first(9.0) in shared.others()
        assert row.first(None) in shared.others()
        assert shared.bury() == []
        children[0].send_signal(signal.SIGKILL)
        children[0].wait()
        assert len(shared.bury()) == 1
        assert (row.busy, row.waiting) == (LIMIT - 1, LIMIT - 1)
        assert row.take(LIMIT)
        assert len(shared.others()) == LIMIT - 1
    finally:
        for child in children:
            child.kill()
            child.communicate()
        shared.close()


def test_rows_are_found_again_and_used_again(tmp_path: Path) -> None:
    shared = Shared(tmp_path / "shared")
    rows = [shared.row(str(i)) for i in range(ROWS)]
    assert None not in rows
    assert shared.row("one more") is None
    assert shared.row("7") is rows[7]
    first = rows[7]
    assert first is not None
    assert first.take(1)
    shared.drop(first)
    assert first.busy == 1, "it was asked for twice"
    shared.drop(first)
    again = shared.row("one more")
    assert again is not None
    assert (again.index, again.busy) == (7, 0)
    shared.close()


def test_a_rate_is_of_all_processes_and_allows_a_burst_after_a_rest(tmp_path: Path) -> None:
    shared = Shared(tmp_path / "shared")
    row = shared.row("service")
    assert row is not None
    assert [row.pace(3.0, 100.0) for _ in range(3)] == [0.0] * 3
    wait = row.pace(3.0, 100.0)
    assert 0 < wait <= 1 / 3 + 1e-9
    assert row.pace(3.0, 100.0 + wait + 1e-9) == 0.0
    assert row.pace(0.5, 200.0) == 0.0
    assert row.pace(0.5, 200.0) == pytest.approx(2.0)
    # Sums on a clock that has run for long are not exact: the burst is whole at any time.
    for tick in range(1, 400):
        now = 300.0 + tick * 97.123456789
        assert [row.pace(5.0, now) for _ in range(5)] == [0.0] * 5
        assert row.pace(5.0, now) == pytest.approx(0.2)
    shared.close()


def test_a_number_is_free_again_when_its_process_has_closed(tmp_path: Path) -> None:
    shared = Shared(tmp_path / "shared")
    assert shared.number == 0
    children = []
    try:
        for _ in range(PROCESSES - 1):
            children.append(worker(tmp_path / "shared"))
            assert line(children[-1]) == "ready"
        with pytest.raises(SetupFailed, match="run already"):
            _in_another(tmp_path / "shared")
        children[3].kill()
        children[3].communicate()
        _in_another(tmp_path / "shared")
    finally:
        for child in children:
            child.kill()
            child.communicate()
        shared.close()


def _in_another(path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from modelworks.gateway.shared import Shared; Shared(Path(sys.argv[1]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SetupFailed(done.stderr)
