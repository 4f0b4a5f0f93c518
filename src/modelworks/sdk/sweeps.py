"""Sweeps from Python: an Estimator's job, many times, with other hyperparameters each time."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelworks.kernel.errors import Conflict, NotFound, WorkloadFailed
from modelworks.sdk import code
from modelworks.sdk.client import Client, Document
from modelworks.sdk.estimator import Estimator
from modelworks.sdk.model import print_note
from modelworks.sdk.text import resource_name
from modelworks.sdk.waiting import phase_of, status_of, until

KIND = "Sweep"
ENDED = ("Succeeded", "Failed", "Stopped")
_REMOTE = ("s3://", "oss://")


class Sweep:
    """Many runs of an Estimator's job. ``parameters`` are as in a manifest: ``{"lr": {"type": "float", "low": 1e-4,
    "high": 0.1, "log": True}, "optimizer": ["adam", "sgd"]}``; a metric's ``goal`` is ``minimize`` or ``maximize``.

    ``algorithm`` is ``grid``, ``random``, ``tpe`` or ``asha``, or a mapping with options of it.
    """

    def __init__(
        self,
        estimator: Estimator,
        parameters: Mapping[str, Any],
        metric: str,
        goal: str = "minimize",
        *,
        algorithm: str | Mapping[str, Any] = "tpe",
        trials: int | None = None,
        parallel: int = 1,
        failures: int | None = None,
        time_limit: float | str | None = None,
        budget: float | None = None,
    ) -> None:
        self.estimator = estimator
        self.parameters = dict(parameters)
        self.metric = metric
        self.goal = goal
        self.algorithm = algorithm if isinstance(algorithm, str) else dict(algorithm)
        self.trials = trials
        self.parallel = parallel
        self.failures = failures
        self.time_limit = time_limit
        self.budget = budget
        self.name: str | None = None

    def manifest(self, name: str, inputs: Mapping[str, str] | None = None) -> Document:
        """The Sweep that ``run`` submits; the job's ``code`` is still a folder."""
        job = self.estimator.manifest(name, inputs)
        if self.estimator.output_path is None:
            job["spec"].pop("output", None)  # each trial's job has one of its own
        spec: dict[str, Any] = {
            "job": job["spec"],
            "parameters": self.parameters,
            "algorithm": self.algorithm,
            "objective": {"metric": self.metric, "goal": self.goal},
            "trials": self.trials,
            "parallel": self.parallel,
            "failures": self.failures,
            "time_limit": self.time_limit,
            "budget": self.budget,
        }
        return {
            "kind": KIND,
            "metadata": job["metadata"],
            "spec": {key: value for key, value in spec.items() if value is not None},
        }

    def run(self, inputs: Mapping[str, str] | None = None, *, name: str | None = None, wait: bool = True) -> Sweep:
        """Submit it; with ``wait`` until it has ended. Raises WorkloadFailed when it failed or was stopped.

        Run again under the same name with more ``trials``, it goes on.
        """
        client = self.estimator.session.client
        self.name = name or resource_name(self.estimator.base_job_name or "sweep", unique=True)
        manifest = self.manifest(self.name, inputs)
        with self.estimator._source() as source:
            if source is not None and not source.startswith(_REMOTE):
                manifest["spec"]["job"]["code"] = code.upload(client, Path(source).expanduser())
        (applied,) = client.apply([manifest])
        for note in applied.get("notes", ()):
            print_note(note)
        return self.wait() if wait else self

    def wait(self) -> Sweep:
        """Raises WorkloadFailed when it failed or was stopped."""
        check(wait(self._client, self._name()))
        return self

    def stop(self) -> None:
        """End its trials, and begin no more."""
        self._client.stop_sweep(self._name())

    @property
    def table(self) -> list[Document]:
        """Every trial: ``number``, ``job``, ``state``, ``parameters``, ``value``, ``step``, ``reason``."""
        return list(self._client.sweep_trials(self._name())["items"])

    @property
    def best(self) -> Document:
        """The best trial: ``trial``, ``value``, ``parameters``, ``job``. Raises Conflict before one is complete."""
        found = best_of(self._client.get(KIND, self._name()))
        if found is None:
            raise Conflict(f"no trial of {self._name()} is complete yet")
        return found

    @property
    def _client(self) -> Client:
        return self.estimator.session.client

    def _name(self) -> str:
        if self.name is None:
            raise NotFound("this Sweep was not run yet", remedy="call run() first")
        return self.name


def wait(client: Client, name: str) -> Document:
    """The sweep once it has ended, well or badly."""
    return until(client, KIND, name, lambda sweep: phase_of(sweep) in ENDED)


def check(sweep: Document) -> Document:
    """The sweep when it succeeded. Raises WorkloadFailed."""
    status, name = status_of(sweep), sweep["metadata"]["name"]
    if status.get("phase") != "Succeeded":
        raise WorkloadFailed(
            f"sweep {name}: {status.get('phase')}, {status.get('message', '')}", remedy=f"mw sweep trials {name}"
        )
    return sweep


def best_of(sweep: Document) -> Document | None:
    """``status.best``, also while the sweep goes on."""
    found = (sweep.get("status") or {}).get("best")
    return dict(found) if found else None
