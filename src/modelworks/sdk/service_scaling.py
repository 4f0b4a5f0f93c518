"""The cloud's three ways to write autoscaling, and its schedules, as one ``autoscaling`` block."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modelworks.sdk.translation import Translation

# Their names of a metric, without case, blanks and underscores → ours. Loads in percent become shares.
_METRICS = {
    "qps": "qps", "requestspersecond": "qps",
    "concurrency": "concurrency", "inflight": "concurrency", "concurrent": "concurrency", "queue": "concurrency",
    "queue[backlog]": "concurrency",
    "cpu": "cpu", "cpuutilization": "cpu",
    "gpu": "gpu", "gpuutil": "gpu", "gpu[util]": "gpu", "gpuutilization": "gpu",
}  # fmt: skip
_LEAST = ("min", "min_replica", "min_replicas", "minReplica", "minReplicas")
_MOST = ("max", "max_replica", "max_replicas", "maxReplica", "maxReplicas")
_LISTS = ("scaleStrategies", "strategies", "metrics")
_SCHEDULES = ("ScaleJobs", "scaleJobs", "scale_jobs")
_EXCLUDED = ("ExcludeDates", "excludeDates", "exclude_dates")
_JOB = {"Name": "name", "Schedule": "schedule", "TargetSize": "replicas", "TimeZone": "timezone"}


def autoscaler(value: Any, at: str, out: Translation) -> None:
    """``{min, max, strategies: {qps: 10}}``, ``{min, max, scaleStrategies: […], behavior}`` or ``{min_replica, …}``."""
    scaling = block(out)
    for key, item in out.mapping(value, at).items():
        path = f"{at}.{key}"
        if key in _LEAST:
            scaling["min"] = item
        elif key in _MOST:
            scaling["max"] = item
        elif key in _LISTS and isinstance(item, Mapping):
            for name, target in item.items():
                _metric(name, target, f"{path}.{name}", out)
        elif key in _LISTS:
            for index, one in enumerate(out.list(item, path, "{metricName: …, threshold: …}")):
                _strategy(out.mapping(one, f"{path}.{index}"), f"{path}.{index}", out)
        elif key == "behavior":
            _behavior(out.mapping(item, path), path, out)
        elif key in _SCHEDULES:
            schedules(item, path, out)
        elif key in _EXCLUDED:
            excluded(item, path, out)
        elif key == "enabled":
            if item is False:
                out.note(at, "it is not enabled")
                out.spec.pop("autoscaling", None)
                return
        else:
            out.unknown(path)


def block(out: Translation) -> dict[str, Any]:
    """The autoscaling that several keys make together."""
    found: dict[str, Any] = out.spec.setdefault("autoscaling", {})
    return found


def schedules(value: Any, at: str, out: Translation) -> None:
    """``[{Name, Schedule, TargetSize, TimeZone}]``."""
    found = []
    for index, item in enumerate(out.list(value, at, "{Name: …, Schedule: …, TargetSize: …}")):
        path, one = f"{at}.{index}", {}
        for key, setting in out.mapping(item, f"{at}.{index}").items():
            name = _JOB.get(key) or _JOB.get(key[:1].upper() + key[1:])
            if name is None:
                out.unknown(f"{path}.{key}")
            else:
                one[name] = _name(setting) if name == "name" else setting
        if one.get("timezone") is None:
            one.pop("timezone", None)
        found.append({"name": f"schedule-{index + 1}", **one})
    block(out)["schedules"] = found


def excluded(value: Any, at: str, out: Translation) -> None:
    """Days, as dates or as cron expressions of one day (``* * * 1 10 *`` without a year cannot be one)."""
    days = []
    for index, day in enumerate(out.list(value, at, "dates such as 2026-10-01")):
        text = str(day)
        if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            days.append(text)
        else:
            out.wrong(f"{at}.{index}", f"a date such as 2026-10-01 is wanted here, not {text!r}")
    block(out)["exclude_dates"] = days


def finish(out: Translation) -> None:
    """Fill in what the cloud leaves open, once every key has been read."""
    scaling = out.spec.get("autoscaling")
    if scaling is None:
        return
    instances = out.spec.get("replicas")
    targets = [job.get("replicas") for job in scaling.get("schedules", ())]
    known = [n for n in (scaling.get("min"), instances, *targets) if isinstance(n, int)]
    scaling.setdefault("min", min(instances, 1) if isinstance(instances, int) else 1)
    scaling.setdefault("max", max(1, *known) if known else 1)
    least, most = scaling["min"], scaling["max"]
    if all(isinstance(n, int) for n in (least, most, instances)) and least <= instances <= most:
        scaling["initial"] = instances
    if isinstance(most, int) and most < 1:
        out.wrong("autoscaler.max", "is at least 1; a service is stopped with `mw service stop`")
    if not scaling.get("metrics"):
        scaling.pop("metrics", None)


def _strategy(strategy: Mapping[str, Any], at: str, out: Translation) -> None:
    name = strategy.get("metricName", strategy.get("type", strategy.get("name")))
    target = strategy.get("threshold", strategy.get("target", strategy.get("value")))
    if name is None or target is None:
        out.wrong(at, "write {metricName: …, threshold: …}")
        return
    _metric(str(name), target, at, out)
    for key in strategy:
        if key == "service":
            out.note(f"{at}.{key}", "a service is scaled by its own load")
        elif key not in ("metricName", "type", "name", "threshold", "target", "value"):
            out.unknown(f"{at}.{key}")


def _metric(name: str, target: Any, at: str, out: Translation) -> None:
    ours = _METRICS.get(re.sub(r"[\s_-]", "", name).lower())
    if ours is None:
        out.wrong(at, f"no such metric here: {name!r}; there are qps, concurrency, cpu and gpu")
        return
    number = out.number(target, at)
    if number is None:
        return
    if ours in ("cpu", "gpu") and number > 1:
        number /= 100
    block(out).setdefault("metrics", {})[ours] = number


def _behavior(behavior: Mapping[str, Any], at: str, out: Translation) -> None:
    for key, value in behavior.items():
        direction = {"scaleUp": "scale_out", "scaleDown": "scale_in", "onZero": "zero"}.get(key)
        if direction is None:
            out.unknown(f"{at}.{key}")
            continue
        for name, item in out.mapping(value, f"{at}.{key}").items():
            path = f"{at}.{key}.{name}"
            if name == "stabilizationWindowSeconds" and direction != "zero":
                block(out)[f"{direction}_stabilization"] = _seconds(item, path, out)
            elif name == "cooldownSeconds" and direction != "zero":
                block(out)[f"{direction}_cooldown"] = _seconds(item, path, out)
            elif name == "scaleDownGracePeriodSeconds" and direction == "zero":
                block(out)["idle"] = _seconds(item, path, out)
            elif name == "scaleUpActivationReplicas" and direction == "zero":
                block(out)["prewarm"] = item
            else:
                out.unknown(path)


def _seconds(value: Any, at: str, out: Translation) -> str:
    number = out.number(value, at)
    return f"{number or 0:g}s"


def _name(value: Any) -> str:
    """``Scale Up_1`` → ``scale-up-1``."""
    return re.sub(r"[^a-z0-9]+", "-", str(value).lower()).strip("-") or "schedule"
