"""What the cloud's SDK says of a job besides its command, as fields of a TrainingJob. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from modelworks.kernel.errors import Invalid
from modelworks.sdk.job_draft import FRAMEWORKS, KINDS


def values(given: Any) -> Mapping[str, Any]:
    """The SDK's options are mappings or objects with fields."""
    return given if isinstance(given, Mapping) else vars(given)


def resources(spec: Any) -> dict[str, Any] | None:
    """The SDK's ``instance_spec``: ``cpu``, ``memory`` (a number is GB) and ``gpu``."""
    if spec is None:
        return None
    known = values(spec)
    found = {key: known[key] for key in ("cpu", "memory", "gpu", "gpu_model") if known.get(key) is not None}
    if known.get("gpu_type") is not None:
        found["gpu_model"] = known["gpu_type"]
    if isinstance(found.get("memory"), int | float):
        found["memory"] = f"{found['memory']}Gi"
    if isinstance(found.get("gpu"), str) and found["gpu"].isdigit():
        found["gpu"] = int(found["gpu"])
    return found or None


def spot(spec: Any, instance: bool | None) -> dict[str, Any] | None:
    """``SpotSpec(spot_strategy, spot_discount_limit)``, or simply yes."""
    if spec is None:
        return {} if instance else None
    known = values(spec)
    strategy, limit = str(known.get("spot_strategy", "")), known.get("spot_discount_limit")
    return {} if limit is None or strategy.endswith("SpotAsPriceGo") else {"price_limit": limit}


def kind(job_type: str, count: int | None) -> dict[str, Any]:
    """The framework of a job type, and its replicas. Raises Invalid for what is not known."""
    if job_type not in FRAMEWORKS:
        raise Invalid(f"job_type {job_type!r} is not known", remedy=f"job_type is one of {', '.join(KINDS)}")
    framework = FRAMEWORKS[job_type]
    found: dict[str, Any] = {} if framework == "pytorch" else {"framework": framework}
    if job_type.startswith("ElasticBatch"):
        return found | {"replicas": {"min": 1, "max": count or 1}}
    return found | ({} if count is None else {"replicas": count})


def metrics(definitions: Iterable[Any] | None) -> list[dict[str, Any]]:
    """``metric_definitions``: a name and a regular expression with one group each."""
    found = []
    for item in definitions or ():
        known = {key.lower(): value for key, value in values(item).items()}
        if "name" not in known or "regex" not in known:
            raise Invalid("a metric definition has a name and a regex", remedy='{"name": "loss", "regex": "loss=(.+)"}')
        found.append({"name": known["name"], "regex": known["regex"]})
    return found


def experiment(config: Any) -> str | None:
    """The name of an experiment, or its id."""
    if config is None or isinstance(config, str):
        return config
    known = values(config)
    return next((str(known[key]) for key in ("experiment_name", "name", "experiment_id") if known.get(key)), None)
