"""Kinds as people write them: ``job``, ``jobs`` and ``TrainingJob`` are one."""

from __future__ import annotations

from difflib import get_close_matches

from modelworks.kernel.errors import Invalid
from modelworks.sdk.client import Client

_KNOWN = {
    "TrainingJob": ("trainingjob", "trainingjobs", "job", "jobs", "tj"),
    "Service": ("service", "services", "svc"),
    "Model": ("model", "models"),
    "Bucket": ("bucket", "buckets"),
    "Volume": ("volume", "volumes", "vol"),
    "Environment": ("environment", "environments", "env"),
    "Sweep": ("sweep", "sweeps"),
    "Quota": ("quota", "quotas"),
    "InstanceType": ("instancetype", "instancetypes", "instance-type", "instance-types", "it"),
}
# What people ask for that is no resource, and the command that shows it.
_NOT_KINDS = {
    "event": "mw events",
    "key": "mw key list",
    "cost": "mw cost",
    "log": "mw logs NAME",
    "node": "mw node list",
    "queue": "mw job queue",
}


def resolve(client: Client, text: str) -> str:
    """The kind's own name. Kinds this CLI does not know are asked of the platform. Raises Invalid with near matches."""
    wanted = text.lower()
    for kind, names in _KNOWN.items():
        if wanted in names:
            return kind
    elsewhere = _NOT_KINDS.get(wanted.removesuffix("s"))
    if elsewhere is not None:
        raise Invalid(f"{text} is no kind of resource", remedy=elsewhere)
    offered: list[str] = []
    for item in client.kinds():
        names = (item["name"], item.get("plural", ""), *(item.get("short") or item.get("short_names") or ()))
        if wanted in (str(name).lower() for name in names):
            return str(item["name"])
        offered.append(str(item["name"]))
    near = get_close_matches(wanted, [name.lower() for name in offered], n=1, cutoff=0.7)
    hint = next((name for name in offered if near and name.lower() == near[0]), None)
    raise Invalid(
        f"there is no kind {text}; the kinds are {', '.join(offered)}", remedy=f"mw get {hint}" if hint else None
    )
