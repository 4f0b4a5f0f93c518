"""What MLflow holds of a job, and curves of several jobs in one picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modelworks.kernel.errors import Invalid, ModelworksError, NotFound
from modelworks.sdk.client import Client, Document
from modelworks.tracking.rules import mlflow_workspace
from modelworks.tracking.tokens import PATH

_TIMEOUT = 60.0  # seconds; the server may be starting


def tracked(client: Client, job: Document) -> tuple[dict[str, str], dict[str, float], str]:
    """Parameters and last metrics of the job's run, and why there are none."""
    if not (job.get("resolved") or {}).get("tracking"):
        return {}, {}, ""
    place = f"{client.url}{PATH}/api/2.0/mlflow/runs/get"
    params = {"run_id": job["metadata"]["uid"], "workspace": mlflow_workspace(client.workspace)}
    try:
        data = client.http.request("GET", place, params=params, timeout=_TIMEOUT)["run"]["data"]
    except NotFound:  # it logged nothing
        return {}, {}, ""
    except ModelworksError as error:
        return {}, {}, f"what MLflow holds of {job['metadata']['name']} is not shown: {error.detail}"
    parameters = {str(one["key"]): str(one["value"]) for one in data.get("params", ())}
    metrics = {str(one["key"]): float(one["value"]) for one in data.get("metrics", ())}
    return parameters, metrics, ""


def differing_first(rows: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """Rows of a name and a value for each job: those whose values differ come first, else in their order."""
    return sorted(rows, key=lambda row: len(set(row[1:])) == 1)


def plot(reported: Mapping[str, Sequence[Document]], path: Path) -> None:
    """Every value that a job reported by step, those of all jobs in one picture. Raises Invalid when there is none."""
    try:
        import matplotlib  # noqa: PLC0415 - optional, and slow to import
    except ImportError:
        raise Invalid("--plot needs matplotlib", remedy="pip install 'modelworks[plots]'") from None
    values = list(dict.fromkeys(str(one["name"]) for items in reported.values() for one in items))
    if not values:
        raise Invalid("none of the jobs reported a value by step", remedy="see `train.step` and `metrics`")

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
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
