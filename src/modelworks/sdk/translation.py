"""What a translation into a manifest collects: the spec, notes for people, and errors with paths."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelworks.kernel.errors import FieldError

MODEL_MOUNTS = ("/mnt/model", "/eas/workspace/model", "/ml/model", "/model")
CODE_MOUNT = "/ml/usercode"
# A probe's keys in both spellings; those that give seconds name the field that takes them.
_SECONDS = {
    "timeout_seconds": "timeout", "timeoutSeconds": "timeout",
    "period_seconds": "period", "periodSeconds": "period",
}  # fmt: skip
_FAILURES = ("failure_threshold", "failureThreshold", "failures")
_HTTP = ("http_get", "httpGet")
_NO_EFFECT = (
    "initial_delay_seconds", "initialDelaySeconds", "success_threshold", "successThreshold",
    "terminationGracePeriodSeconds",
)  # fmt: skip
_TCP = ("tcp_socket", "tcpSocket")
_NOT_HTTP = ("exec", "grpc")
PORT_ANSWERS = {"path": "/", "status": "any"}
"""The readiness of what has a port and no health check: all who get requests here speak HTTP."""

Notes = Mapping[str, str | None]
"""Keys that are known and have no effect here, and what to say of each (None: silently taken)."""


@dataclass
class Translation:
    """``spec`` of the manifest, the ``name`` when the document has one, and ``notes`` for people."""

    spec: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    errors: list[FieldError] = field(default_factory=list)

    def note(self, path: str, text: str) -> None:
        self.notes.append(f"{path} has no effect here" + (f": {text}" if text else ""))

    def unknown(self, path: str) -> None:
        self.wrong(path, "unknown field")

    def wrong(self, path: str, text: str) -> None:
        self.errors.append(FieldError(path, text))

    def once(self, name: str, value: str, path: str) -> None:
        """A field of the spec that several keys stand for: they may say the same, but not different things."""
        given = self.spec.setdefault(name, value)
        if str(given).rstrip("/") != value.rstrip("/"):
            self.wrong(path, f"the {name} is {given} already, and there is one")

    def mapping(self, value: Any, path: str) -> Mapping[str, Any]:
        """The value, or an error and nothing."""
        if isinstance(value, Mapping):
            return value
        self.wrong(path, f"a mapping is wanted here, not {type(value).__name__}")
        return {}

    def list(self, value: Any, path: str, of: str) -> list[Any]:
        if isinstance(value, list):
            return value
        self.wrong(path, f"write a list of {of}")
        return []

    def number(self, value: Any, path: str) -> float | None:
        """A number, also as text as templates fill it in, or an error and None."""
        if not isinstance(value, bool):
            try:
                return float(value)
            except (TypeError, ValueError):
                pass
        self.wrong(path, f"a number is wanted here, not {value!r}")
        return None


def noted(path: str, known: Notes, out: Translation, key: str | None = None) -> None:
    """What is known by its path, or by ``key``, is told of; another one is an error."""
    name = path if key is None else key
    if name not in known:
        out.unknown(path)
    elif (text := known[name]) is not None:
        out.note(path, text)


def noted_field(at: str, key: str, known: Notes, out: Translation) -> None:
    """The field ``key`` of what stands ``at`` that path."""
    noted(f"{at}.{key}" if at else key, known, out, key)


def metadata(written: Mapping[str, Any], known: Notes, out: Translation) -> None:
    """Name and labels of a document of Kubernetes."""
    for key, value in written.items():
        if key == "name":
            out.name = str(value)
        elif key == "labels":
            out.labels = {str(k): str(v) for k, v in out.mapping(value, "metadata.labels").items()}
        elif key != "namespace" or value != "default":
            noted_field("metadata", key, known, out)


def pod_volumes(pod: Mapping[str, Any], at: str, out: Translation) -> dict[str, Mapping[str, Any]]:
    """A pod's volumes by name."""
    listed = out.list(pod.get("volumes", []), f"{at}.volumes", "volumes")
    found = [out.mapping(item, f"{at}.volumes.{index}") for index, item in enumerate(listed)]
    return {str(one.get("name")): one for one in found}


def variables(value: Any, at: str, out: Translation) -> dict[str, str]:
    """``[{name, value}]`` → variables."""
    found: dict[str, str] = {}
    for index, item in enumerate(out.list(value, at, "{name: …, value: …}")):
        path = f"{at}.{index}"
        if not isinstance(item, Mapping) or "name" not in item:
            out.wrong(path, "write {name: …, value: …}")
        elif "valueFrom" in item or "value_from" in item:
            out.wrong(f"{path}.valueFrom", "only values that stand here can be given: write value")
        else:
            value = item.get("value", "")
            found[str(item["name"])] = str(value).lower() if isinstance(value, bool) else str(value)
    return found


def probe(check: Mapping[str, Any], at: str, out: Translation) -> dict[str, Any]:
    """The cloud's or Kubernetes' probe as ``readiness``. One that is no GET becomes one that any answer will do for."""
    found: dict[str, Any] = {}
    for key, value in check.items():
        path = f"{at}.{key}"
        if key == "path":
            found["path"] = value
        elif key in _SECONDS:
            seconds = out.number(value, path)
            found |= {_SECONDS[key]: f"{seconds:g}s"} if seconds is not None else {}
        elif key in _FAILURES:
            found["failures"] = value
        elif key in _HTTP:
            found["path"] = out.mapping(value, path).get("path", "/")
        elif key in _NO_EFFECT:
            out.note(path, "")
        elif key in _TCP:
            found |= PORT_ANSWERS
        elif key in _NOT_HTTP:
            found |= PORT_ANSWERS
            out.note(path, "a replica is ready when its port answers a GET of /, with whatever status")
        else:
            out.unknown(path)
    return found


def startup(check: Mapping[str, Any]) -> str | None:
    """How long a start-up probe lets a replica take."""
    period = check.get("periodSeconds", check.get("period_seconds", 10))
    failures = check.get("failureThreshold", check.get("failure_threshold", 3))
    numbers = all(isinstance(number, int | float) for number in (period, failures))
    return f"{period * failures:g}s" if numbers else None


def rolling(strategy: Mapping[str, Any], at: str, replicas: int, out: Translation) -> None:
    """``max_surge`` and ``max_unavailable``, numbers or percents of the replicas: surge rounds up, the other down."""
    names = {"max_surge": math.ceil, "max_unavailable": math.floor}
    spelled = {"maxSurge": "max_surge", "maxUnavailable": "max_unavailable"}
    found: dict[str, Any] = {}
    for key, value in strategy.items():
        name = spelled.get(key, key)
        if name not in names:
            out.unknown(f"{at}.{key}")
        elif isinstance(value, str) and value.endswith("%"):
            percent = out.number(value[:-1], f"{at}.{key}")
            found |= {name: names[name](percent / 100 * max(1, replicas))} if percent is not None else {}
        else:
            found[name] = value
    if found.get("max_surge") == 0 and not found.get("max_unavailable"):
        found["max_unavailable"] = 1  # a share of few replicas that came to none: nothing could ever be replaced
    if found:
        out.spec["rolling"] = found
