"""How long a training loop waits for a checkpoint of 500 MB: a model with AdamW, while nothing else is written."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.bench.harness import Entry, Figure, Unmeasurable

BLOCKED = Figure("checkpoint.blocked_s", "s", 0.15, "lower")
FIGURES = (BLOCKED,)
_LAYERS, _WIDTH, _SAVES = 10, 2048, 9


def run() -> Sequence[Entry]:
    try:
        import torch  # noqa: PLC0415
    except ImportError as error:
        raise Unmeasurable("torch is not installed") from error
    from modelworks.train.checkpointer import Checkpointer  # noqa: PLC0415

    model = torch.nn.ModuleList([torch.nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(_LAYERS)])
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    size = 3 * sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    folder = Path(tempfile.mkdtemp(prefix="modelworks-bench-"))
    blocked, written = [], []
    try:
        checkpointer = Checkpointer(folder, keep=1)
        for step in range(1, _SAVES + 1):
            began = time.perf_counter()
            checkpointer.save(step, model=model, optimizer=optimizer)
            blocked.append(time.perf_counter() - began)
            checkpointer.wait()
            written.append(time.perf_counter() - began)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    first, *later = blocked
    context = {"megabytes": round(size / 1e6), "first_s": round(first, 3), "written_s": round(max(written), 3)}
    return [BLOCKED.medians(later, worst=round(max(later), 3), **context)]
