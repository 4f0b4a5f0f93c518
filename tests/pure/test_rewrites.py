"""Progress bars in logs are lines, not thousands of them; everything else passes byte by byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelworks.kernel.rewrites import Rewrites


def shown(*pieces: bytes, period: float | None = None, step: float = 0.1) -> bytes:
    view = Rewrites(period)
    return b"".join(view.feed(piece, number * step) for number, piece in enumerate(pieces)) + view.end()


@given(st.lists(st.binary(max_size=20).filter(lambda data: b"\r" not in data)))
def test_what_is_not_rewritten_passes_as_it_is_and_at_once(pieces: list[bytes]) -> None:
    view = Rewrites(1.0)
    assert [view.feed(piece, 0.0) for piece in pieces] == pieces


@given(st.lists(st.sampled_from([b"a", b"bc", b"\r", b"\n", b"\r\n", b" "]), max_size=30), st.integers(1, 5))
def test_a_stored_log_is_shown_alike_however_it_is_cut(words: list[bytes], size: int) -> None:
    data = b"".join(words)
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    wanted = [line for line in last_states(data) if line.strip()]
    assert [line for line in shown(data).split(b"\n") if line.strip()] == wanted
    lines = iter(shown(*pieces).split(b"\n"))
    # What was shown before it was known that it would be rewritten stays.
    assert all(line in lines for line in wanted)


def last_states(data: bytes) -> list[bytes]:
    states = [line.split(b"\r") for line in data.replace(b"\r\n", b"\n").split(b"\n")]
    return [next((state for state in reversed(line) if state.strip()), b"") for line in states]


def test_a_thousand_states_are_one_line_a_second() -> None:
    bar = [b"begun\n", *(f"\r{n} %".encode() for n in range(1001)), b"\nended\n"]
    assert shown(*bar) == b"begun\n1000 %\nended\n"
    lines = shown(*bar, period=1.0, step=0.01).splitlines()
    assert lines[0] == b"begun"
    assert lines[-2:] == [b"1000 %", b"ended"]
    assert 10 <= len(lines) <= 14


def test_a_bar_that_nothing_ends_is_shown_with_its_last_state() -> None:
    assert shown(b"\r1 %", b"\r2 %") == b"2 %\n"
    assert shown(b"loading", b"\rloaded\n") == b"loading\nloaded\n"
    assert shown(b"windows\r", b"\nlines\r\n") == b"windows\nlines\n"
