"""A DataLoader that knows where it is: a resumed job gets exactly the batches that were not yet used."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from typing import Any

from modelworks.train import group, progress, rng

_MIX = 1_000_003  # keeps the seeds of neighbouring epochs apart


class Loader:
    """Wraps a ``torch.utils.data.DataLoader``; iterate it in its stead.

    The order of an epoch depends on ``seed`` and the epoch alone (of a DistributedSampler on its own seed, which it
    has on all ranks), and what a dataset draws at random in workers on the item too, so that both are the same after a
    resume. Each new iteration is the next epoch; after ``load_state_dict`` the first one goes on with the next batch::

        loader = train.Loader(DataLoader(dataset, batch_size=32, shuffle=True))
        for epoch in range(loader.epoch, EPOCHS):
            for images, labels in loader:
                ...

    With another number of ranks, or another batch size, it goes on at the same sample, at most one batch of all ranks
    earlier. An IterableDataset is asked again for what was used, and that is thrown away.
    """

    def __init__(self, loader: Any, *, seed: int | None = None) -> None:
        import torch  # noqa: PLC0415 - the package works without it

        self.loader = loader
        self.seed = torch.initial_seed() % 2**62 if seed is None else seed
        self.epoch = 0
        self.position = 0  # batches of this epoch that the loop was given
        self._loaded = False
        self._begun = False
        self._iterable = isinstance(loader.dataset, torch.utils.data.IterableDataset)
        if not self._iterable and loader.batch_sampler is None:
            raise ValueError("the DataLoader has batch_size=None: give it a batch_size, or a batch_sampler")
        # Drawn from it, not from the global generator, whose numbers belong to the model.
        self._generator = torch.Generator()
        if self._iterable:
            loader.generator = self._generator
        self._inner = loader if self._iterable else self._rebuilt()

    def __len__(self) -> int:
        """Batches of a whole epoch."""
        return len(self.loader)

    @property
    def dataset(self) -> Any:
        return self.loader.dataset

    @property
    def sampler(self) -> Any:
        return self.loader.sampler

    @property
    def batch_size(self) -> Any:
        return self.loader.batch_size

    def set_epoch(self, epoch: int) -> None:
        """The next iteration is of that epoch; of the one that is being resumed, it goes on in it."""
        if not (self._loaded and epoch == self.epoch):
            self.epoch, self.position, self._loaded = epoch, 0, False
        self._begun = False

    def __iter__(self) -> Iterator[Any]:
        if self._begun:
            self.epoch += 1
        if not self._loaded:
            self.position = 0
        self._loaded, self._begun = False, True
        self._generator.manual_seed(self._epoch_seed())
        for batch in progress.waiting(self._rest()):
            self.position += 1
            yield batch
        self.epoch, self.position, self._begun = self.epoch + 1, 0, False

    def state_dict(self) -> dict[str, Any]:
        """Which batch comes next."""
        return {
            "epoch": self.epoch,
            "position": self.position,
            "seed": self.seed,
            "batch_size": self._batch(),
            "world": self._world(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where another loader of the same data was."""
        self.epoch, self.seed = state["epoch"], state["seed"]
        then, now = state["batch_size"] * state["world"], self._batch() * self._world()
        self.position = state["position"] if then == now else state["position"] * then // now
        self._loaded, self._begun = True, False

    # -- inside -------------------------------------------------------------------------------------------------

    def _epoch_seed(self) -> int:
        return (self.seed + self.epoch * _MIX) % 2**62

    def _batch(self) -> int:
        size = self.loader.batch_size or getattr(self.loader.batch_sampler, "batch_size", 1)
        return int(size)

    def _world(self) -> int:
        """Over how many ranks the samples are spread."""
        for sampler in (self.loader.sampler, self.loader.batch_sampler):
            if hasattr(sampler, "num_replicas"):
                return int(sampler.num_replicas)
        return group.size() if self._iterable else 1

    def _rest(self) -> Iterator[Any]:
        iterator: Iterator[Any] = iter(self._inner)
        if self._iterable and self.position:
            with rng.apart():
                for _ in islice(iterator, self.position):
                    pass
        return iterator

    def batches(self) -> Iterator[list[tuple[Any, int]]]:
        """The batches that are left of this epoch: of each item its index, and the seed for what it draws."""
        seed = self._epoch_seed()
        for batch in islice(self._order(seed), self.position, None):
            yield [(index, _item_seed(seed, index)) for index in batch]

    def _order(self, seed: int) -> Iterator[Any]:
        import torch  # noqa: PLC0415

        data = torch.utils.data
        batch_sampler: Any = self.loader.batch_sampler
        sampler: Any = getattr(batch_sampler, "sampler", None)
        drawing: list[Any] = [sampler, batch_sampler]
        for one in drawing:
            if hasattr(one, "set_epoch"):
                one.set_epoch(self.epoch)
        plain = type(batch_sampler) is data.BatchSampler
        if plain and type(sampler) is data.RandomSampler:
            sampler.generator = torch.Generator().manual_seed(seed)
        elif not plain or type(sampler) not in (data.SequentialSampler, data.DistributedSampler):
            # Whatever it draws, and from which generator: the order is drawn at once, from numbers of this epoch.
            with rng.apart(seed):
                for one in drawing:
                    if isinstance(getattr(one, "generator", None), torch.Generator):
                        one.generator.manual_seed(seed)
                return iter(list(batch_sampler))
        return iter(batch_sampler)

    def _rebuilt(self) -> Any:
        import torch  # noqa: PLC0415

        old = self.loader
        options: dict[str, Any] = {}
        if old.num_workers:
            options = {"prefetch_factor": old.prefetch_factor, "persistent_workers": old.persistent_workers}
        return torch.utils.data.DataLoader(
            _items(old.dataset),
            batch_sampler=_Plan(self),
            num_workers=old.num_workers,
            collate_fn=old.collate_fn,
            pin_memory=old.pin_memory,
            timeout=old.timeout,
            worker_init_fn=old.worker_init_fn,
            multiprocessing_context=old.multiprocessing_context,
            generator=self._generator,
            **options,
        )


class _Plan:
    """The inner DataLoader's batch sampler."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __iter__(self) -> Iterator[list[tuple[Any, int]]]:
        return self._loader.batches()

    def __len__(self) -> int:
        return len(self._loader)


class _Items:
    """The dataset by ``(index, seed)``: a worker's generators are seeded for each item, whoever had the ones before."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, item: tuple[Any, int]) -> Any:
        index, seed = item
        _seed_worker(seed)
        return self.dataset[index]


class _BatchItems(_Items):
    """For a dataset that fetches several items at once."""

    def __getitems__(self, items: list[tuple[Any, int]]) -> Any:
        if items:
            _seed_worker(items[0][1])
        return self.dataset.__getitems__([index for index, _ in items])


def _items(dataset: Any) -> _Items:
    return _BatchItems(dataset) if callable(getattr(dataset, "__getitems__", None)) else _Items(dataset)


def _item_seed(seed: int, index: Any) -> int:
    # Of the index and not of the place in the epoch, at which other ranks have other items.
    return int.from_bytes(hashlib.blake2b(f"{seed} {index!r}".encode(), digest_size=7).digest())


def _seed_worker(seed: int) -> None:
    import torch  # noqa: PLC0415

    # In the main process the global generators are the model's too; there they are part of the checkpoint.
    if torch.utils.data.get_worker_info() is not None:
        rng.seed_all(seed)
