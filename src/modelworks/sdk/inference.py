"""What a model is served with: ``InferenceSpec``, the cloud's service JSON as an object."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelworks.kernel.errors import Invalid
from modelworks.sdk.requirements import read_requirements
from modelworks.sdk.service_json import Translation, translate
from modelworks.sdk.session import Session, warn_unused

_CODE = "/ml/usercode"


class InferenceSpec:
    """Service JSON that can be read and written by attribute: ``spec.metadata.instance``, ``spec.processor``."""

    def __init__(self, **configuration: Any) -> None:
        self._data: dict[str, Any] = copy.deepcopy(configuration)

    def add_option(self, name: str, value: Any) -> InferenceSpec:
        """Set ``a.b.c``, making what lies between. Raises Invalid when something else than a mapping lies there."""
        at = self._data
        *parents, last = name.split(".")
        for parent in parents:
            at = at.setdefault(parent, {})
            if not isinstance(at, dict):
                raise Invalid(f"{name}: {parent} is not a mapping")
        at[last] = value
        return self

    def merge_options(self, options: Mapping[str, Any]) -> InferenceSpec:
        """Merge a nested mapping; keys may be dotted."""
        for key, value in options.items():
            if isinstance(value, Mapping):
                for path, leaf in _leaves(value, key):
                    self.add_option(path, leaf)
            else:
                self.add_option(key, value)
        return self

    def mount(self, source: str, mount_path: str | None = None, **unused: Any) -> dict[str, Any]:
        """Mount an ``s3://`` or ``oss://`` folder, read-only, or a local folder of code; the storage entry."""
        warn_unused("InferenceSpec.mount", unused)
        entry: dict[str, Any] = {"mount_path": mount_path or _CODE, "oss": {"path": str(source)}}
        self._data.setdefault("storage", []).append(entry)
        return entry

    def to_dict(self) -> dict[str, Any]:
        return copy.deepcopy(self._data)

    def translation(self) -> Translation:
        """As the spec of a Service, with the notes on what has no effect here."""
        return translate(self._data)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            value = self._data[name]
        except KeyError:
            raise AttributeError(f"the InferenceSpec has no {name!r}") from None
        if isinstance(value, dict):
            view = InferenceSpec()
            view._data = value
            return view
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            object.__setattr__(self, name, value)
        else:
            self._data[name] = value.to_dict() if isinstance(value, InferenceSpec) else value

    def __repr__(self) -> str:
        return f"InferenceSpec({self._data!r})"


def container_serving_spec(
    command: str,
    image_uri: str,
    source_dir: str | None = None,
    git_config: dict[str, str] | None = None,
    port: int = 8000,
    environment_variables: dict[str, str] | None = None,
    requirements: list[str] | None = None,
    requirements_path: str | None = None,
    health_check: dict[str, Any] | str | None = None,
    storage_configs: list[dict[str, Any]] | None = None,
    session: Session | None = None,
) -> InferenceSpec:
    """A spec for any HTTP server: ``command`` runs in ``source_dir`` and listens on ``$PORT``.

    ``requirements_path`` is a file of ``source_dir``. ``health_check`` is a path, or ``{path, timeout_seconds, …}``.
    """
    warn_unused("container_serving_spec", {"git_config": git_config})
    if requirements_path:
        file = Path(source_dir or ".") / requirements_path
        if not file.is_file():
            raise Invalid(f"there is no requirements file {file}")
        requirements = [*(requirements or []), *read_requirements(file)]
    container: dict[str, Any] = {"image": image_uri, "command": command, "port": port}
    if environment_variables:
        container["env"] = [{"name": k, "value": v} for k, v in environment_variables.items()]
    if requirements:
        container["prepare"] = {"pythonRequirements": requirements}
    if health_check:
        container["health_check"] = {"path": health_check} if isinstance(health_check, str) else dict(health_check)
    spec = InferenceSpec(containers=[container])
    if storage_configs:
        spec.merge_options({"storage": list(storage_configs)})
    if source_dir:
        spec.mount(source_dir, _CODE)
    return spec


def _leaves(value: Mapping[str, Any], at: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, item in value.items():
        path = f"{at}.{key}"
        found += _leaves(item, path) if isinstance(item, Mapping) else [(path, item)]
    return found
