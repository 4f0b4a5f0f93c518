"""How good a variant is, and whether INT8 is good enough. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"
Task = Literal["classification", "regression"]
MOST_LOST = 0.5  # points: hundredths of accuracy, agreement or R²
ENOUGH = 200  # samples: with fewer, one alone is more than MOST_LOST


@dataclass(frozen=True)
class Score:
    """``value`` from 0 to 1 over ``samples``. Agreement is with the eager model; accuracy and R² are with labels."""

    metric: str
    value: float
    samples: int

    @property
    def points(self) -> float:
        return 100 * self.value


@dataclass(frozen=True)
class Verdict:
    """Whether a variant may replace the original: ``lost`` in points, negative when it is better."""

    ok: bool
    lost: float
    told: str


@dataclass(frozen=True)
class Closeness:
    """How near a variant's scores of classes are to the original's, whatever is right: ``top1`` is the share of rows
    with the same best class, ``top5`` that of the five best classes that are the same, ``kl`` the mean divergence of
    the probabilities, in nats."""

    top1: float
    top5: float
    kl: float


def task_of(outputs: Sequence[Array]) -> Task:
    """Whole numbers and rows of several scores are classes; everything else is numbers to come near to."""
    first = outputs[0]
    if first.dtype.kind in "iubOUS":
        return "classification"
    return "classification" if first.ndim == 2 and first.shape[1] > 1 else "regression"


def score(outputs: Sequence[Array], reference: Sequence[Array], labels: Array | None, task: Task) -> Score:
    """Of one variant's outputs, each [N, …], against labels if there are any, else against the eager outputs."""
    count = len(reference[0])
    if task == "classification":
        chosen = classes(outputs)
        wanted = classes(reference) if labels is None else labels
        right = chosen.astype(str) == wanted.astype(str) if chosen.dtype.kind in "OUS" else chosen == wanted
        return Score("agreement" if labels is None else "accuracy", float(np.mean(right)), count)
    wanted = reference[0] if labels is None else labels
    return Score("r2_with_eager" if labels is None else "r2", _r2(outputs[0], wanted), count)


def closeness(outputs: Sequence[Array], reference: Sequence[Array]) -> Closeness | None:
    """Of the first outputs [N, classes] that are scores; None where there are none."""
    for given, wanted in zip(outputs, reference, strict=False):
        if given.dtype.kind == "f" and given.ndim == 2 and given.shape[1] > 1 and given.shape == wanted.shape:
            break
    else:
        return None
    kept = min(5, given.shape[1])
    best = [np.argsort(-one, axis=1, kind="stable")[:, :kept] for one in (wanted, given)]
    same = [len(np.intersect1d(a, b)) / kept for a, b in zip(*best, strict=True)]
    p, q = _logarithms(wanted), _logarithms(given)
    divergence = np.maximum((np.exp(p) * (p - q)).sum(axis=1), 0)
    top1 = float(np.mean(best[0][:, 0] == best[1][:, 0]))
    return Closeness(round(top1, 6), round(float(np.mean(same)), 6), round(float(np.mean(divergence)), 6))


def _logarithms(scores: Array) -> Array:
    """Of probabilities: scores that are none yet are made some by softmax."""
    values: Array = scores.astype(np.float64)
    if (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=1e-2):
        values = np.maximum(values, 1e-12)
        logarithms: Array = np.log(values)
        return logarithms
    values = values - values.max(axis=1, keepdims=True)
    found: Array = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    return found


def classes(outputs: Sequence[Array]) -> Array:
    """The class of each row: a first output of whole numbers as it is, scores by the largest."""
    first = outputs[0]
    if first.dtype.kind in "iubOUS":
        return first.reshape(len(first), -1)[:, 0]
    found: Array = first.reshape(len(first), -1).argmax(axis=1)
    return found


def judge(original: Score, variant: Score, name: str, limit: float = MOST_LOST) -> Verdict:
    """``original`` and ``variant`` are scores of the same metric over the same samples."""
    lost = original.points - variant.points
    ok = bool(lost <= limit + 1e-9)
    told = f"{name} loses {lost:.2f} points of {variant.metric} ({original.points:.2f} → {variant.points:.2f})"
    if not ok:
        told += f", more than {limit:g}, on {variant.samples} samples"
    return Verdict(ok, lost, told)


def _r2(values: Array, wanted: Array) -> float:
    """The share of the variance that is explained, at least 0; 1 for equal constants."""
    a: Array = values.reshape(-1).astype(np.float64)
    b: Array = wanted.reshape(-1).astype(np.float64)
    if a.shape != b.shape:
        return 0.0
    total, rest = float(np.sum((b - b.mean()) ** 2)), float(np.sum((a - b) ** 2))
    if total == 0:
        return 1.0 if rest < 1e-12 * max(1.0, float(np.sum(b**2))) else 0.0
    return max(0.0, 1 - rest / total)
