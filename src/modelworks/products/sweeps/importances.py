"""How much each parameter of a sweep mattered for its objective: Optuna's word, asked in a process of its own.

Optuna would stay in the memory of whoever imports it, and its sums take processor time: one process at a time, and an
answer is kept until more trials are complete. Few may wait for it: each holds a thread of the API.
"""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import Any

from modelworks.db.trials import StoredTrial
from modelworks.kernel.errors import ModelworksError, Unavailable
from modelworks.products.sweeps.spec import SweepSpec

_log = logging.getLogger(__name__)

FEWEST = 8
"""Complete trials below which nothing is said: it would be chance."""
_PATIENCE = 60.0  # seconds
_MOST_KEPT = 64  # sweeps

_WAIT = 20.0  # seconds, for those before

_turn = threading.Lock()
_places = threading.BoundedSemaphore(4)  # one at work, and those that wait
_keeping = threading.Lock()
_kept: OrderedDict[str, tuple[tuple[int, ...], dict[str, float]]] = OrderedDict()


def question(spec: SweepSpec, trials: Sequence[StoredTrial]) -> dict[str, Any] | None:
    """What Optuna is asked, by the terms of ``modelworks/tuner/importances.py``; None for too few complete trials."""
    whole = [trial for trial in trials if trial.state == "complete" and trial.value is not None]
    if len(whole) < FEWEST:
        return None
    study = spec.study()
    told = [{"parameters": trial.parameters, "value": trial.value} for trial in whole]
    return {"direction": study["direction"], "parameters": study["parameters"], "trials": told}


def importances(uid: str, spec: SweepSpec, trials: Sequence[StoredTrial]) -> Mapping[str, float]:
    """Shares that add up to 1, by parameter, the greatest first; empty for too few complete trials.

    Raises ModelworksError without Optuna, Unavailable when there is no answer in time, or too many ask.
    """
    asked = question(spec, trials)
    if asked is None:
        return {}
    if find_spec("optuna") is None:
        raise ModelworksError("the platform's Python lacks Optuna", remedy="install modelworks[sweeps] there")
    state = tuple(trial.number for trial in trials if trial.state == "complete")
    known = _known(uid, state)
    if known is not None:
        return known
    if not _places.acquire(blocking=False):
        raise _busy()
    try:
        if not _turn.acquire(timeout=_WAIT):
            raise _busy()
        try:
            known = _known(uid, state)  # perhaps somebody who was before wanted the same
            return known if known is not None else _keep(uid, state, _answer(asked))
        finally:
            _turn.release()
    finally:
        _places.release()


def _busy() -> Unavailable:
    return Unavailable("the importances of other sweeps are being worked out: ask again", retry_after=5.0)


def _known(uid: str, state: tuple[int, ...]) -> Mapping[str, float] | None:
    with _keeping:
        found = _kept.get(uid)
        if found is None or found[0] != state:
            return None
        _kept.move_to_end(uid)
        return found[1]


def _keep(uid: str, state: tuple[int, ...], answer: dict[str, float]) -> Mapping[str, float]:
    with _keeping:
        _kept[uid] = state, answer
        _kept.move_to_end(uid)
        while len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
    return answer


def _answer(asked: Mapping[str, Any]) -> dict[str, float]:
    command = [sys.executable, "-P", "-m", "modelworks.tuner.importances"]
    try:
        done = subprocess.run(
            command, input=json.dumps(asked), capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        raise Unavailable(f"the importances were not worked out within {_PATIENCE:g} s", retry_after=5.0) from None
    if done.returncode != 0:
        _log.error("sweep.importances_failed", extra={"error": done.stderr[-2000:]})
        last = done.stderr.strip().rpartition("\n")[2]
        raise ModelworksError(f"the importances cannot be worked out: {last or f'exit code {done.returncode}'}")
    found: dict[str, float] = json.loads(done.stdout)
    return dict(sorted(found.items(), key=lambda one: (-one[1], one[0])))
