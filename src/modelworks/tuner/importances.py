"""``python -m modelworks.tuner.importances``: one JSON document of complete trials in, how much each parameter mattered
out. It needs no database.

``{direction, parameters: {name: terms}, trials: [{parameters, value}]}`` → ``{name: share}``; the shares add up to 1.
"""

from __future__ import annotations

import json
import sys
import warnings
from typing import Any

import optuna
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from modelworks.tuner.studies import distribution

_GOOD = 5  # trials, at least, whose parameters are held against those of all: with fewer, chance decides


def importances(study: dict[str, Any]) -> dict[str, float]:
    """By PED-ANOVA: how unlike all trials' values of a parameter those of the best tenth are, or of the best five."""
    distributions = {name: distribution(terms) for name, terms in study["parameters"].items()}
    held = optuna.create_study(direction=study["direction"])
    held.add_trials(
        [
            create_trial(params=one["parameters"], distributions=distributions, value=float(one["value"]))
            for one in study["trials"]
        ]
    )
    share = min(0.5, max(0.1, _GOOD / len(study["trials"])))
    found = get_param_importances(held, evaluator=PedAnovaImportanceEvaluator(target_quantile=share))
    return {name: float(value) for name, value in found.items()}


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    json.dump(importances(json.load(sys.stdin)), sys.stdout)
