"""Studies in Optuna's own tables, in a schema of our database. A sweep is a study, named by the sweep's uid.

Requests name trials by number, so that one that is repeated finds what the first one did: a trial is made once, ended
once, and a value of a step replaces itself. What a sampler draws follows from the seed, the trial's number and the
trials before it: this process may be another one each time.
"""

from __future__ import annotations

import hashlib
from typing import Any

import optuna
import psycopg
import sqlalchemy
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

SCHEMA = "optuna"
_MOST_STUDIES = 16  # held in memory
_STATES = {
    "complete": TrialState.COMPLETE,
    "pruned": TrialState.PRUNED,
    "failed": TrialState.FAIL,
    "stopped": TrialState.FAIL,
}


class Studies:
    """All studies of a database. The schema is made when it is not there."""

    def __init__(self, url: str) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        plain = sqlalchemy.create_engine(url, poolclass=sqlalchemy.NullPool)
        with plain.begin() as connection:
            # Two controllers may come here at once; "IF NOT EXISTS" alone is not safe against that.
            connection.execute(sqlalchemy.text("SELECT pg_advisory_xact_lock(hashtext('modelworks.tuner'))"))
            connection.execute(sqlalchemy.text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        within = sqlalchemy.make_url(url).update_query_dict({"options": f"-c search_path={SCHEMA}"})
        self._storage = RDBStorage(
            within.render_as_string(hide_password=False),
            engine_kwargs={"pool_size": 1, "max_overflow": 2, "pool_pre_ping": True, "pool_recycle": 1800},
        )
        self._studies: dict[str, Study] = {}

    @staticmethod
    def is_away(error: BaseException | None) -> bool:
        """Whether the database could not answer, rather than that something is wrong."""
        while error is not None:
            if isinstance(
                error, psycopg.OperationalError | sqlalchemy.exc.InterfaceError | sqlalchemy.exc.TimeoutError
            ):
                return True
            error = error.__cause__ or error.__context__
        return False

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """``{study, results, reports, ask}`` → ``{asked, prune}``, or ``{drop}`` → ``{}``. In this order, each once."""
        if "drop" in request:
            self._drop(str(request["drop"]))
            return {}
        terms = request["study"]
        study = self._study(terms)
        for result in request.get("results", ()):
            self._tell(study, result)
        prune = [
            report["number"] for report in request.get("reports", ()) if self._report(study, terms["algorithm"], report)
        ]
        asked = [
            {"number": one["number"], "parameters": self._ask(study, terms, one)} for one in request.get("ask", ())
        ]
        return {"asked": asked, "prune": prune}

    def _study(self, terms: dict[str, Any]) -> Study:
        name = str(terms["name"])
        if name not in self._studies:
            if len(self._studies) >= _MOST_STUDIES:
                self._studies.pop(next(iter(self._studies)))
            self._studies[name] = optuna.create_study(
                study_name=name, storage=self._storage, direction=terms["direction"], load_if_exists=True
            )
        return self._studies[name]

    def _drop(self, name: str) -> None:
        self._studies.pop(name, None)
        if name in optuna.get_all_study_names(self._storage):
            optuna.delete_study(study_name=name, storage=self._storage)

    def _tell(self, study: Study, result: dict[str, Any]) -> None:
        state = _STATES[result["state"]]
        value = result.get("value") if state is TrialState.COMPLETE else None
        study.tell(int(result["number"]), value, state=state, skip_if_finished=True)

    def _report(self, study: Study, algorithm: dict[str, Any], report: dict[str, Any]) -> bool:
        """Note a value; True when the trial is to end early."""
        frozen = self._trial(study, int(report["number"]))
        if frozen is None or frozen.state.is_finished():
            return False
        study.pruner = _pruner(algorithm)
        trial = self._open(study, frozen)
        if report["step"] not in frozen.intermediate_values:
            trial.report(float(report["value"]), int(report["step"]))
        return trial.should_prune()

    def _ask(self, study: Study, terms: dict[str, Any], wish: dict[str, Any]) -> dict[str, Any]:
        """The parameters of a trial, which is made unless it is there. ``fixed`` ones are a grid's."""
        number, parameters = int(wish["number"]), terms["parameters"]
        study.sampler = _sampler(terms["algorithm"], number)
        distributions = {name: distribution(one) for name, one in parameters.items()}
        while (frozen := self._trial(study, number)) is None:
            if "fixed" in wish:
                values = wish["fixed"]
                study.add_trial(create_trial(state=TrialState.RUNNING, params=values, distributions=distributions))
            else:
                study.ask(distributions)
        if frozen.params.keys() >= distributions.keys():
            return dict(frozen.params)
        # Whoever made it was ended half way.
        trial = self._open(study, frozen)
        return {name: _suggest(trial, name, one) for name, one in distributions.items()}

    @staticmethod
    def _trial(study: Study, number: int) -> FrozenTrial | None:
        trials = study.get_trials(deepcopy=False)
        return trials[number] if number < len(trials) else None

    @staticmethod
    def _open(study: Study, frozen: FrozenTrial) -> Trial:
        return Trial(study, frozen._trial_id)


def _sampler(algorithm: dict[str, Any], number: int) -> BaseSampler:
    drawn = hashlib.sha256(f"{algorithm['seed']}/{number}".encode()).digest()
    seed = int.from_bytes(drawn[:4])
    if algorithm["sampler"] == "tpe":
        return TPESampler(seed=seed, n_startup_trials=algorithm["startup_trials"], constant_liar=True)
    return RandomSampler(seed=seed)


def _pruner(algorithm: dict[str, Any]) -> BasePruner:
    if algorithm["name"] != "asha":
        return NopPruner()
    return SuccessiveHalvingPruner(
        min_resource=algorithm["min_resource"], reduction_factor=algorithm["reduction_factor"]
    )


def distribution(parameter: dict[str, Any]) -> BaseDistribution:
    match parameter["type"]:
        case "float":
            return FloatDistribution(
                parameter["low"], parameter["high"], log=parameter["log"], step=parameter.get("step")
            )
        case "int":
            low, high = int(parameter["low"]), int(parameter["high"])
            return IntDistribution(low, high, log=parameter["log"], step=int(parameter.get("step") or 1))
        case _:
            return CategoricalDistribution(parameter["choices"])


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    match distribution:
        case FloatDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_float(name, low, high, log=log, step=step)
        case IntDistribution(low=low, high=high, log=log, step=step):
            return trial.suggest_int(name, low, high, log=log, step=step)
        case CategoricalDistribution(choices=choices):
            return trial.suggest_categorical(name, choices)
    raise TypeError(f"no such distribution: {distribution!r}")
