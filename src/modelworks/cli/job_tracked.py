"""What MLflow holds of a job, and curves of several jobs in one picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from modelworks.cli.pictures import save
from modelworks.kernel.errors import Invalid, ModelworksError, NotFound
from modelworks.sdk.client import Client, Document
from modelworks.tracking.rules import mlflow_workspace
from modelworks.tracking.tokens import PATH

_TIMEOUT = 60.0  # seconds; the server may be starting


def tracked(client: Client, job: Document) -> tuple[dict[str, str], dict[str, float], str]:
    """Parameters and last metrics of the job's run, and why there are none."""
    if not (job.get("resolved") or {}).get("tracking"):
        return {}, {}, ""
    try:
        data = _ask(client, job, "runs/get")["run"]["data"]
    except NotFound:  # it logged nothing
        return {}, {}, ""
    except ModelworksError as error:
        return {}, {}, f"what MLflow holds of {job['metadata']['name']} is not shown: {error.detail}"
    parameters = {str(one["key"]): str(one["value"]) for one in data.get("params", ())}
    metrics = {str(one["key"]): float(one["value"]) for one in data.get("metrics", ())}
    return parameters, metrics, ""


def curves(client: Client, job: Document, metrics: Iterable[str]) -> list[Document]:
    """These metrics of the job's run by step, as the platform gives what was reported to itself."""
    found = []
    for name in metrics:
        history = _ask(client, job, "metrics/get-history", metric_key=name).get("metrics", ())
        told = sorted((int(one["step"]), int(one["timestamp"]), float(one["value"])) for one in history)
        # Another attempt repeats steps: what it said counts.
        points = {step: value for step, _, value in told}
        found.append({"name": name, "points": [{"step": step, "value": value} for step, value in points.items()]})
    return found


def _ask(client: Client, job: Document, what: str, **params: str) -> Document:
    place = f"{client.url}{PATH}/api/2.0/mlflow/{what}"
    asked = {"run_id": job["metadata"]["uid"], "workspace": mlflow_workspace(client.workspace), **params}
    return dict(client.http.request("GET", place, params=asked, timeout=_TIMEOUT))


def differing_first(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Rows of a name and a value for each job: those whose values differ come first, else in their order."""
    return sorted(rows, key=lambda row: len(set(row[1:])) == 1)


def plot(reported: Mapping[str, Sequence[Document]], path: Path, wanted: Sequence[str] = ()) -> None:
    """Every value that a job reported by step, those of all jobs in one picture. Raises Invalid when there is none.

    ``wanted`` are the names that were asked for.
    """
    try:
        import matplotlib  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        raise Invalid("--plot needs matplotlib", remedy="pip install 'modelworks[plots]'") from None
    values = list(dict.fromkeys(str(one["name"]) for items in reported.values() for one in items))
    if not values:
        what = " or ".join(wanted) or "a value"
        raise Invalid(f"none of the jobs reported {what} by step", remedy="see `train.step`, `metrics` and MLflow")

    matplotlib.use("Agg")
    from matplotlib import pyplot  # noqa: PLC0415

    figure, axes = pyplot.subplots(len(values), 1, figsize=(9, 3 * len(values)), layout="constrained", squeeze=False)
    for drawn, value in zip(axes[:, 0], values, strict=True):
        for name, items in reported.items():
            points: list[Any] = next((one["points"] for one in items if one["name"] == value), [])
            if points:
                drawn.plot([point["step"] for point in points], [point["value"] for point in points], label=name)
        drawn.set_ylabel(value)
        drawn.set_xlabel("step")
        drawn.legend()
        drawn.grid(alpha=0.3)
    save(figure, path)
    pyplot.close(figure)
