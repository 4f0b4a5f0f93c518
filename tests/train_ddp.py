"""An ordinary distributed training script for tests: dropout, BatchNorm, AdamW, shuffled data drawn upon at random.

It prints ``<step> <loss>`` for each step (the loss to the last digit), ``resumed <step>`` at its start and, at its end,
``weights <SHA-256>`` or ``stopped <step>``. ``DIE_AT`` is a step after which the rank ``DIE_RANK`` is killed.
"""

from __future__ import annotations

import hashlib
import os
import random
import signal
import time
from datetime import timedelta
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from modelworks import train
from modelworks.train import checkpoint

EPOCHS, SAMPLES, BATCH = 3, 96, 8


class Noisy(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        clean = torch.linspace(0, 1 + index / SAMPLES, 16)
        noise = torch.randn(16) + float(np.random.rand()) + random.random()
        return clean + 0.1 * noise, torch.tensor(index % 4)


def run(out: Connection, env: dict[str, str]) -> None:
    """The script in a forked process, with its output to ``out``."""
    os.dup2(out.fileno(), 1)
    os.environ.update(env)
    main()


def main() -> None:
    torch.set_num_threads(1)
    # Of a busy machine workloads have what others leave: one rank may have imported torch a minute before the other.
    torch.distributed.init_process_group("gloo", timeout=timedelta(minutes=5))
    rank = torch.distributed.get_rank()
    torch.manual_seed(1234 + rank)
    np.random.seed(rank)
    random.seed(rank)
    network = nn.Sequential(nn.Linear(16, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.3), nn.Linear(32, 4))
    model = DistributedDataParallel(network)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    dataset = Noisy()
    workers = int(os.environ.get("WORKERS", "0"))
    loader = train.Loader(
        DataLoader(
            dataset,
            batch_size=BATCH,
            sampler=DistributedSampler(dataset),
            num_workers=workers,
            multiprocessing_context="fork" if workers else None,
        )
    )
    states = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": loader}
    found = checkpoint.restore(**states)
    step = found.step if found else 0
    print(f"resumed {step} {found.exact if found else ''}", flush=True)

    for _ in range(loader.epoch, EPOCHS):
        for inputs, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            step += 1
            print(f"{step} {loss.item()!r}", flush=True)
            train.step(step, loss=loss, samples=len(inputs))
            checkpoint.maybe(step, **states)
            if os.environ.get("DIE_AT") == str(step):
                # Steps of milliseconds would outrun the disk, which no interval of real steps does.
                checkpoint.wait()
                torch.distributed.barrier()
                if os.environ.get("DIE_RANK") == str(rank):
                    os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(float(os.environ.get("PAUSE", "0")))
            if train.should_stop():
                checkpoint.save(step, wait=True, **states)
                print(f"stopped {step}", flush=True)
                return
    digest = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        digest.update(name.encode() + value.numpy().tobytes())
    checkpoint.wait()
    print(f"weights {digest.hexdigest()}", flush=True)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
