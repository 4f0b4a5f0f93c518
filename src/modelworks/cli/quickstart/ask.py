"""Asking the service about every held-out image, one request each, and what came of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from modelworks.cli.quickstart.digits import Image
from modelworks.kernel.errors import WorkloadFailed
from modelworks.sdk.predictor import Predictor


@dataclass(frozen=True)
class Answers:
    """Latencies are in milliseconds, as this client saw them."""

    accuracy: float
    p50_ms: float
    p99_ms: float
    count: int


def ask(predictor: Predictor, images: Sequence[Image], tell: Callable[[int], None] = lambda _: None) -> Answers:
    """Send each image by itself. Raises the error of a refusal, WorkloadFailed for an answer that holds no label."""
    right, times = 0, []
    predictor.predict(body(images[0]))  # opens the connection and fetches the token: neither belongs to a request
    for image in images:
        began = time.perf_counter()
        answer = predictor.predict(body(image))
        times.append((time.perf_counter() - began) * 1000)
        right += label_of(answer) == image.label
        tell(1)
    times.sort()
    return Answers(right / len(images), percentile(times, 0.50), percentile(times, 0.99), len(images))


def body(image: Image) -> dict[str, Any]:
    return {"instances": [list(image.pixels)]}


def label_of(answer: Any) -> int:
    try:
        prediction = answer["predictions"][0]
        return int(prediction["label"] if isinstance(prediction, dict) else prediction)
    except (KeyError, IndexError, TypeError, ValueError):
        raise WorkloadFailed(f"the service answered {json.dumps(answer)[:200]}") from None


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest rank: the smallest value that ``share`` of all do not exceed."""
    rank = -(-len(ordered) * share // 1)  # rounded up
    return ordered[max(0, int(rank) - 1)]
