"""The model server's batcher: limits, order and deadlines, whatever arrives and whenever it is asked."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.server.batching import Batcher, Item

ITEMS = st.lists(
    st.tuples(
        st.integers(1, 8),  # rows
        st.sampled_from(("a", "b", "c")),
        st.floats(0, 2),  # after the one before
        st.one_of(st.just(math.inf), st.floats(0, 3)),  # to its deadline
        st.booleans(),  # its caller goes
        st.booleans(),  # a batch is asked for after it
    ),
    max_size=40,
)


@given(
    items=ITEMS,
    limit=st.one_of(st.none(), st.integers(8, 20)),
    delay=st.sampled_from((0.0, 0.5)),
    lanes=st.integers(1, 4),
)
def test_limits_order_and_deadlines_hold(
    items: list[tuple[int, str, float, float, bool, bool]], limit: int | None, delay: float, lanes: int
) -> None:
    batcher, now = Batcher(limit, delay), 0.0
    batches: list[list[Item]] = []
    everything: list[Item] = []
    late: list[Item] = []
    gone: list[Item] = []

    def ask() -> bool:
        head = batcher.head(now)
        batch, expired = batcher.take(now, lanes)
        assert head is not None or not batch
        # A share is one item, whatever its rows, or no more than its part of a whole batch.
        assert limit is None or len(batch) < 2 or sum(item.rows for item in batch) <= -(-limit // lanes)
        assert all(item.deadline <= now for item in expired)
        assert all(item.deadline > now and not item.gone for item in batch)
        late.extend(expired)
        if batch:
            batches.append(batch)
        return bool(batch)

    for rows, key, after, patience, goes, asks in items:
        now += after
        item = Item(object(), rows, key, now, now + patience)
        everything.append(item)
        batcher.put(item)
        if goes:
            batcher.discard(item)
            gone.append(item)
        if asks:
            ask()
    now += 10
    while ask():
        pass

    assert batcher.depth == 0
    assert batcher.due() is None
    assert batcher.oldest() is None
    # Every item ends exactly once.
    ended = [id(item) for batch in batches for item in batch] + [id(item) for item in (*late, *gone)]
    assert sorted(ended) == sorted(id(item) for item in everything)
    for batch in batches:
        assert len({item.key for item in batch}) == 1 or limit is None
        if limit is None:
            assert len(batch) == 1
        else:
            assert sum(item.rows for item in batch) <= limit
    for key in ("a", "b", "c"):
        computed = [item.order for batch in batches for item in batch if item.key == key]
        assert computed == sorted(computed)


@given(items=ITEMS)
def test_without_a_delay_the_oldest_item_is_always_in_the_next_batch(
    items: list[tuple[int, str, float, float, bool, bool]],
) -> None:
    batcher = Batcher(8)
    waiting = [Item(object(), rows, key, 0.0) for rows, key, *_ in items]
    for item in waiting:
        batcher.put(item)
    while waiting:
        batch, _ = batcher.take(1.0)
        assert batch[0] is waiting[0]
        # Nothing that would still have fitted was left behind.
        following = next((item for item in waiting if item.key == batch[0].key and item not in batch), None)
        assert following is None or sum(item.rows for item in batch) + following.rows > 8
        waiting = [item for item in waiting if item not in batch]


def test_a_delay_waits_for_more_rows_and_not_beyond_a_full_batch_or_a_deadline() -> None:
    batcher = Batcher(4, 1.0)
    batcher.put(Item("first", 2, "a", 0.0))
    assert batcher.due() == 1.0
    assert batcher.take(0.5) == ([], [])
    batcher.put(Item("second", 2, "a", 0.5))
    assert batcher.due() == -math.inf
    assert [item.work for item in batcher.take(0.5)[0]] == ["first", "second"]
    batcher.expected = 0.1
    batcher.put(Item("urgent", 1, "a", 1.0, deadline=1.4))
    assert batcher.due() == pytest.approx(1.3)
    assert [item.work for item in batcher.take(1.31)[0]] == ["urgent"]


def test_a_cancelled_item_neither_fills_a_batch_nor_holds_its_data() -> None:
    batcher = Batcher(4, 1.0)
    item = Item("body", 4, "a", 0.0)
    batcher.put(item)
    batcher.discard(item)
    batcher.discard(item)
    assert (batcher.depth, item.work) == (0, None)
    batcher.put(Item("next", 1, "a", 0.2))
    assert batcher.due() == 1.2


def test_a_batch_of_nothing_is_no_batch() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        Batcher(0)


def test_a_batch_is_divided_and_all_shares_are_due_when_it_is() -> None:
    batcher = Batcher(8, 1.0)
    for number in range(10):
        batcher.put(Item(number, 1, "a", 0.0 if number < 8 else 0.5))
    found = batcher.head(0.5)
    assert found is not None
    assert (found[0].work, *found[1:]) == (0, 8, 10)
    assert [item.work for item in batcher.take(0.5, 2)[0]] == [0, 1, 2, 3]
    assert [item.work for item in batcher.take(0.5, 2)[0]] == [4, 5, 6]  # half of what is due still
    assert batcher.due() == -math.inf
    assert [item.work for item in batcher.take(0.5, 1)[0]] == [7, 8, 9]
    assert batcher.due() is None


def test_what_is_not_a_part_of_the_divided_batch_waits_for_its_own_time() -> None:
    batcher = Batcher(4, 1.0)
    for number in range(5):
        batcher.put(Item(number, 1, "a", 0.0 if number < 4 else 0.5))
    assert [item.work for item in batcher.take(0.5, 4)[0]] == [0]
    while batcher.due() == -math.inf:
        batcher.take(0.5, 4)
    assert batcher.due() == 1.5
