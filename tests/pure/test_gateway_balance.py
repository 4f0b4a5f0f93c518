"""Which replica and which revision: shares, ties, and whom a change of weights moves."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from modelworks.gateway.balance import deck, least_loaded, shares, stickiest


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


weights = st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.integers(1, 100), min_size=1, max_size=5)


@given(weights, st.integers(0, 1000))
def test_a_deck_holds_each_revision_as_often_as_its_weight(weights: dict[str, int], seed: int) -> None:
    cards = deck(weights, random.Random(seed).shuffle)
    first = next(iter(weights))
    for name, weight in weights.items():
        assert cards.count(name) * weights[first] == cards.count(first) * weight


@given(weights, st.data())
def test_growing_takes_from_others_and_moves_nobody_else(weights: dict[str, int], data: st.DataObject) -> None:
    grown = data.draw(st.sampled_from(sorted(weights)))
    more = {**weights, grown: weights[grown] + data.draw(st.integers(1, 100))}
    for key in (b"%d" % i for i in range(50)):
        before, after = stickiest(weights, key), stickiest(more, key)
        assert after in (before, grown)


@given(weights, st.data())
def test_a_revision_that_goes_moves_only_its_own(weights: dict[str, int], data: st.DataObject) -> None:
    gone = data.draw(st.sampled_from(sorted(weights)))
    fewer = {name: weight for name, weight in weights.items() if name != gone}
    if fewer:
        for key in (b"%d" % i for i in range(50)):
            before = stickiest(weights, key)
            assert before == gone or stickiest(fewer, key) == before


def test_a_canary_keeps_its_users_while_it_grows_and_gets_its_share() -> None:
    keys = [b"user-%d" % i for i in range(4000)]
    former: set[bytes] = set()
    for weight in (1, 10, 50, 90, 99):
        mine = {key for key in keys if stickiest({"stable": 100 - weight, "canary": weight}, key) == "canary"}
        assert former <= mine
        assert abs(len(mine) / len(keys) - weight / 100) < 0.03
        former = mine


def test_who_takes_requests() -> None:
    assert shares({}, ["a", "b"]) == {}
    assert shares({"a": 90, "b": 10}, ["a", "b", "a"]) == {"a": 90, "b": 10}
    assert shares({"a": 90, "b": 10}, ["b"]) == {"b": 10}
    assert shares({"a": 100}, ["a", "c"]) == {"a": 100}
    assert shares({"a": 100, "b": 0}, ["b"]) == {}  # never one that was set to nothing
    assert shares({"a": 100}, ["c"]) == {"c": 1}  # but rather another one than nobody
    assert shares({"a": 100}, ["c"], aside="c") == {}
