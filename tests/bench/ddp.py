"""A training script that works when it is told to: a perceptron by DistributedDataParallel on gloo, one thread a rank.

``TURNS`` is a folder. Whoever writes ``<SIDE> <number> <steps>`` to its file ``turn`` has the processes of that side
take so many steps; the first rank then writes ``<SIDE>.<number>``: the seconds of each, as JSON. ``end`` ends them all.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from modelworks import train

_FEATURES, _WIDTH, _CLASSES, _BATCH = 784, 1024, 10, 128
_WARM_UP = 10  # steps at the beginning of each turn that do not count


def main() -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    torch.manual_seed(7)
    layers = [nn.Linear(_FEATURES, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, _WIDTH), nn.ReLU()]
    model = DistributedDataParallel(nn.Sequential(*layers, nn.Linear(_WIDTH, _CLASSES)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    folder, side = Path(os.environ["TURNS"]), os.environ["SIDE"]
    first = torch.distributed.get_rank() == 0
    begun, step = "", 0
    while True:
        turn = (folder / "turn").read_text()
        if turn == "end":
            break
        whose, _, rest = turn.partition(" ")
        if whose != side or turn == begun:
            time.sleep(0.01)
            continue
        begun = turn
        number, steps = rest.split()
        torch.distributed.barrier()
        seconds = []
        for _ in range(_WARM_UP + int(steps)):
            began = time.perf_counter()
            inputs, labels = torch.randn(_BATCH, _FEATURES), torch.randint(_CLASSES, (_BATCH,))
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            optimizer.step()
            step += 1
            train.step(step, loss=loss.item(), samples=_BATCH)
            seconds.append(time.perf_counter() - began)
        if first:
            print(f"{turn}: loss {loss.item():.4f}", flush=True)
            written = folder / f"{side}.{number}.tmp"
            written.write_text(json.dumps(seconds[_WARM_UP:]))
            written.rename(folder / f"{side}.{number}")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
