"""The lines of several replicas in one stream, by when they came."""

from __future__ import annotations

import asyncio
from typing import cast

from hypothesis import given
from hypothesis import strategies as st

from modelworks.products.context import Context
from modelworks.products.merged import Gang, Wanted, merged
from modelworks.runtime.base import Runtime

Lines = list[tuple[int, str]]  # seconds, and the line


class Node:
    """A node that has a log and its times for each replica, and tells them a few bytes at a time."""

    def __init__(self, logs: dict[str, Lines]) -> None:
        self.parts: dict[tuple[str, str], bytes] = {}
        for key, lines in logs.items():
            log, times = b"", b""
            for at, line in lines:
                log += line.encode() + b"\n"
                times += f"{at * 1000} {len(log)}\n".encode()
            self.parts |= {(key, "log"): log, (key, "times"): times}

    def log(self, key: str, offset: int = 0, limit: int = 1 << 20, part: str = "log") -> bytes:
        return self.parts[key, part][offset : offset + min(limit, 40)]


class Shared:
    def __init__(self, node: Node) -> None:
        self.node = node

    def holders(self, key: str) -> list[Runtime]:
        return [cast(Runtime, self.node)]


def lines(logs: dict[str, Lines], wanted: Wanted) -> list[str]:
    gangs = ([Gang(tuple(sorted(logs)), ended=True)], True)

    async def read() -> bytes:
        context = cast(Context, Shared(Node(logs)))
        return b"".join([text async for text in merged(context, "default", lambda: gangs, wanted, follow=False)])

    return asyncio.run(read()).decode().splitlines()


logs = st.lists(st.integers(0, 50), max_size=30).map(lambda found: [(at, f"at {at}") for at in sorted(found)])


@given(logs, logs, st.integers(0, 60))
def test_lines_are_in_the_order_in_which_they_came_from_a_moment_on(first: Lines, second: Lines, since: int) -> None:
    both = sorted([(at, 0, line) for at, line in first] + [(at, 1, line) for at, line in second])
    found = lines({"a": first, "b": second}, Wanted(since=float(since)))
    assert found == [f"[{rank}] {line}" for at, rank, line in both if at >= since]


def test_what_is_looked_for_is_found_in_the_lines_alone() -> None:
    found = lines(
        {"a": [(1, "Loss 2"), (2, "step")], "b": [(3, "loss 1")]}, Wanted("loss", ignore_case=True, marked=False)
    )
    assert found == ["Loss 2", "loss 1"]
