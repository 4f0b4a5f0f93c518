"""The loader goes on with exactly the next batch, whatever shuffles, and whoever reads."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from modelworks import train

torch = pytest.importorskip("torch")
data = torch.utils.data


class Noisy:
    """Items that are drawn upon at random."""

    def __len__(self) -> int:
        return 23

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([float(index), torch.rand(()).item(), np.random.rand(), random.random()])


class Fetching(Noisy):
    """As datasets that read several items at once."""

    def __getitems__(self, indices: list[int]) -> list[Any]:
        return [self[index] for index in indices]


class Counting(data.IterableDataset):  # type: ignore[misc,name-defined]
    def __iter__(self) -> Any:
        return iter(range(23))


def _seed() -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)


def _workers(number: int) -> dict[str, Any]:
    return {"num_workers": number, "multiprocessing_context": "fork"} if number else {}


MAKERS: dict[str, Callable[[], Any]] = {
    "in order": lambda: data.DataLoader(Noisy(), batch_size=4),
    "shuffled": lambda: data.DataLoader(Noisy(), batch_size=4, shuffle=True),
    "shuffled by workers": lambda: data.DataLoader(Fetching(), batch_size=4, shuffle=True, **_workers(2)),
    "workers that stay": lambda: data.DataLoader(
        Noisy(), batch_size=4, shuffle=True, persistent_workers=True, **_workers(1)
    ),
    "drop last": lambda: data.DataLoader(Noisy(), batch_size=4, shuffle=True, drop_last=True),
    "distributed": lambda: data.DataLoader(
        Noisy(), batch_size=4, sampler=data.DistributedSampler(Noisy(), num_replicas=2, rank=1)
    ),
    "weighted": lambda: data.DataLoader(
        Noisy(), batch_size=4, sampler=data.WeightedRandomSampler([float(i) for i in range(23)], 23)
    ),
    "of batches": lambda: data.DataLoader(
        Noisy(), batch_sampler=data.BatchSampler(data.RandomSampler(range(23)), 5, True)
    ),
    "a stream": lambda: data.DataLoader(Counting(), batch_size=4),
}


@pytest.mark.parametrize("name", list(MAKERS))
def test_it_goes_on_with_the_next_batch(name: str) -> None:
    def run(loader: train.Loader, epochs: int) -> list[Any]:
        found = []
        for _ in range(loader.epoch, epochs):
            for batch in loader:
                found.append((loader.epoch, batch.tolist(), torch.rand(()).item()))
        return found

    _seed()
    whole = run(train.Loader(MAKERS[name]()), 3)
    per_epoch = len(whole) // 3
    assert whole[0][1] != whole[per_epoch][1] or name in ("in order", "a stream")
    # Starting workers takes long, and they change nothing about the ends of an epoch.
    for done in (per_epoch + 2,) if "workers" in name else (1, per_epoch - 1, per_epoch, per_epoch + 2):
        _seed()
        loader = train.Loader(MAKERS[name]())
        taken = []
        for _ in range(3):
            for batch in loader:
                taken.append((loader.epoch, batch.tolist(), torch.rand(()).item()))
                if len(taken) == done:
                    break
            if len(taken) == done:
                break
        assert taken == whole[:done]
        state = loader.state_dict()
        kept = (torch.get_rng_state(), np.random.get_state(), random.getstate())
        _disturb()
        resumed = train.Loader(MAKERS[name]())
        resumed.load_state_dict(state)
        torch.set_rng_state(kept[0])
        np.random.set_state(kept[1])
        random.setstate(kept[2])
        assert run(resumed, 3) == whole[done:]


def _disturb() -> None:
    torch.manual_seed(99)
    np.random.seed(99)
    random.seed(99)


def test_a_new_iteration_is_the_next_epoch() -> None:
    loader = train.Loader(MAKERS["shuffled"](), seed=5)
    first, second = next(iter(loader)).tolist(), next(iter(loader)).tolist()
    assert loader.epoch == 1
    assert [row[0] for row in first] != [row[0] for row in second]
    loader.set_epoch(0)
    assert [row[0] for row in next(iter(loader)).tolist()] == [row[0] for row in first]
    assert len(loader) == 6


def test_other_numbers_of_ranks_go_on_at_the_same_sample() -> None:
    class Plain:
        def __len__(self) -> int:
            return 48

        def __getitem__(self, index: int) -> int:
            return index

    def make(ranks: int, rank: int) -> train.Loader:
        sampler = data.DistributedSampler(Plain(), num_replicas=ranks, rank=rank)
        return train.Loader(data.DataLoader(Plain(), batch_size=4, sampler=sampler), seed=1)

    def take(loader: train.Loader, batches: int | None) -> list[int]:
        found: list[int] = []
        for number, batch in enumerate(loader, 1):
            found += batch.tolist()
            if number == batches:
                break
        return found

    three = [make(3, rank) for rank in range(3)]
    before = [index for loader in three for index in take(loader, 2)]
    state = three[0].state_dict()
    after = []
    for rank in range(2):
        loader = make(2, rank)
        loader.load_state_dict(state)
        after += take(loader, None)
    assert sorted(before + after) == list(range(48))


def test_a_loader_without_batches_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size=None: give it a batch_size"):
        train.Loader(data.DataLoader(Noisy(), batch_size=None))
