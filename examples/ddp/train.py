"""Train a network on handwritten digits with two processes: an ordinary script of PyTorch's DistributedDataParallel.

It saves checkpoints beside the loop, stops when it is told to, and goes on where it was. By hand, with one process:
MW_INPUT_DATA=data MW_OUTPUT_DIR=out MW_CHECKPOINT_DIR=checkpoints python train.py
"""

import csv
import os

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from modelworks import train
from modelworks.train import checkpoint

SETTINGS = {"epochs": 60, "batch": 32, "lr": 2e-3} | train.hyperparameters()


def read() -> TensorDataset:
    """Images as (n, 1, 8, 8) float32 between 0 and 1, and their labels. The label is the last column."""
    rows = []
    for path in sorted(train.paths.input("data").glob("*.csv")):
        with path.open(newline="") as file:
            lines = csv.reader(file)
            next(lines)  # the header
            rows += [[float(cell) for cell in line] for line in lines]
    if not rows:
        raise SystemExit("the input has no CSV files")
    table = torch.tensor(rows)
    return TensorDataset(table[:, :-1].reshape(-1, 1, 8, 8) / 16, table[:, -1].long())


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, 10),
    )  # fmt: skip


def main() -> None:
    distributed = int(os.environ.get("WORLD_SIZE", "1")) > 1
    if distributed:
        dist.init_process_group("gloo")
    rank = dist.get_rank() if distributed else 0
    torch.manual_seed(rank)

    data = read()
    learn, check = torch.utils.data.random_split(data, [0.8, 0.2], torch.Generator().manual_seed(0))
    sampler = DistributedSampler(learn) if distributed else None
    loader = train.Loader(DataLoader(learn, SETTINGS["batch"], shuffle=sampler is None, sampler=sampler))
    model = DistributedDataParallel(network()) if distributed else network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=SETTINGS["lr"])
    steps = len(loader) * SETTINGS["epochs"]
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, SETTINGS["lr"], steps)

    states = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "loader": loader}
    found = checkpoint.restore(**states)
    step = found.step if found else 0
    print(f"rank {rank} begins at step {step} of {steps}", flush=True)

    for epoch in range(loader.epoch, SETTINGS["epochs"]):
        for images, labels in loader:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            scheduler.step()
            step += 1
            train.step(step, steps=steps, epoch=epoch, samples=len(images), loss=loss)
            checkpoint.maybe(step, **states)
            if train.should_stop():
                checkpoint.save(step, wait=True, **states)
                print(f"rank {rank} stops at step {step}", flush=True)
                return
        if rank == 0:
            print(f"epoch {epoch + 1}: loss {loss.item():.4f}", flush=True)

    if rank == 0:
        plain = model.module if distributed else model  # the wrapper would wait for the other rank
        plain.eval()
        images, labels = (torch.stack(values) for values in zip(*check, strict=True))
        with torch.no_grad():
            accuracy = (plain(images).argmax(1) == labels).float().mean().item()
        torch.save(plain.state_dict(), train.paths.output() / "model.pt")
        train.report({"validation_accuracy": accuracy})
        print(f"validation accuracy {accuracy:.4f}", flush=True)
    if distributed:
        dist.barrier()
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
