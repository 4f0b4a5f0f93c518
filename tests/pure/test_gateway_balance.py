from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from modelworks.gateway.balance import least_loaded


@dataclass
class Load:
    in_flight: int
    limit: int = 3
    open: bool = True


loads = st.lists(st.builds(Load, st.integers(0, 4), st.integers(1, 4), st.booleans()), max_size=6)


@given(loads, st.integers(0, 100))
def test_it_is_free_and_nobody_free_has_less(replicas: list[Load], turn: int) -> None:
    free = [r for r in replicas if r.open and r.in_flight < r.limit]
    chosen = least_loaded(replicas, turn)
    if not free:
        assert chosen is None
    else:
        assert chosen is not None
        assert any(chosen is r for r in free)
        assert chosen.in_flight == min(r.in_flight for r in free)


def test_ties_go_round() -> None:
    replicas = [Load(1) for _ in range(3)]
    chosen = [least_loaded(replicas, turn) for turn in range(6)]
    assert len({id(c) for c in chosen}) == 3
