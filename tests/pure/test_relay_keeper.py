"""How often a node tries to have a relay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from modelworks.agent.relaykeeper import pause_after


def test_what_is_in_the_way_for_ever_costs_an_interpreter_each_half_minute() -> None:
    assert [pause_after(vain) for vain in range(7)] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


@given(st.integers(min_value=0))
def test_pauses_never_shrink_nor_pass_half_a_minute(vain: int) -> None:
    assert 1.0 <= pause_after(vain) <= pause_after(vain + 1) <= 30.0
