"""The user's settings: ``MW_HOME/config.yaml`` and the environment, over the shipped catalogues in ``data/``.

A variable (``MW_PORT``) wins over the file, the file over the default. The catalogues of the file add to the shipped
ones; a name that is in both is the file's. Nothing is substituted that the file does not name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources as package_files
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BeforeValidator, Field, ValidationError

from modelworks.home import Home
from modelworks.kernel.catalogue import EnvironmentSpec, InstanceType, InstanceTypeSpec, Substitution
from modelworks.kernel.errors import FieldError, Invalid, SetupFailed
from modelworks.kernel.quantities import Duration
from modelworks.kernel.run import Resources
from modelworks.kernel.spec import Spec, written_switch
from modelworks.kernel.wrong_fields import field_errors

_VARIABLES = {
    "MW_DATABASE_URL": "database_url",
    "MW_S3_ENDPOINT": "s3_endpoint",
    "MW_ADVERTISE_URL": "advertise_url",
    "MW_ADVERTISE_S3_URL": "advertise_s3_url",
    "MW_RAY_ADDRESS": "ray_address",
    "MW_AGENT_HOME": "agent_home",
    "MW_HOST": "host",
    "MW_PORT": "port",
    "MW_S3_PORT": "s3_port",
    "MW_GATEWAYS": "gateways",
    "MW_TRACKING": "tracking",
    "MW_TRACKING_DATABASE_URL": "tracking_database_url",
    "MW_SPOT_METADATA": "spot_metadata",
    "MW_SPOT_METADATA_URL": "spot_metadata_url",
}
MOST_GATEWAYS = 8
_REMEDY = "correct the file, or move it away to start with the defaults"


class Rule(Spec):
    """``from`` is a shell pattern (``ecs.gn*``), ``to`` the name that is used instead."""

    from_: str = Field(alias="from", min_length=1)
    to: str = Field(min_length=1)

    def matches(self, name: str) -> bool:
        return fnmatchcase(name, self.from_)


class Substitutions(Spec):
    """Replacements the user asked for, each list in order: the first match counts, and only once."""

    instance_types: tuple[Rule, ...] = ()
    images: tuple[Rule, ...] = ()
    models: tuple[Rule, ...] = ()


class Prices(Spec):
    """Prices of what has no instance type, in the settings' currency."""

    cpu_hour: float = Field(default=0.025, ge=0)
    memory_gib_hour: float = Field(default=0.0035, ge=0)
    gpu_hour: float = Field(default=1.2, ge=0)
    volume_gib_hour: float = Field(default=0.00012, ge=0)
    storage_gib_hour: float = Field(default=0.000024, ge=0)


class Catalogue(Spec):
    """The shipped environments, and the patterns by which a cloud's image names stand for them."""

    environments: dict[str, EnvironmentSpec]
    aliases: tuple[Rule, ...] = ()


class Settings(Spec):
    """Everything a user can set for one platform."""

    home: str = Field(default="/var/lib/modelworks", description="MW_HOME; not for the file")
    host: str = "127.0.0.1"
    port: int = Field(default=8700, ge=0, le=65535)
    s3_port: int = Field(default=8733, ge=0, le=65535)
    gateways: int | None = Field(
        default=None, ge=1, le=MOST_GATEWAYS, description="gateway processes on the port; null: one for each four cores"
    )
    database_url: str | None = None
    s3_endpoint: str | None = None
    advertise_url: str | None = Field(default=None, description="the platform's address as other machines reach it")
    advertise_s3_url: str | None = Field(default=None, description="the same of the object store")
    node_lease: Duration = Field(
        default=15.0,
        ge=3,
        le=60,
        description="how long runs of a cluster's node live that is cut off from the controller",
    )
    ray_address: str | None = Field(default=None, description="HOST:PORT of a Ray cluster, or auto; null: this machine")
    agent_home: str | None = Field(
        default=None, description="where the agents of a Ray cluster's nodes keep their state"
    )
    spot_metadata: Annotated[
        Literal["auto", "off", "aws", "gcp", "azure", "alibaba"], BeforeValidator(written_switch)
    ] = Field(default="auto", description="whose notices of spot instances are read; auto: by the machine's firmware")
    spot_metadata_url: str | None = Field(default=None, description="instead of that cloud's metadata service")
    tracking: Annotated[Literal["auto", "on", "off"], BeforeValidator(written_switch)] = Field(
        default="auto", description="the MLflow server, started when it is asked for; auto: when MLflow is installed"
    )
    tracking_idle: Duration = Field(
        default=900.0, ge=1, le=86400, description="how long the MLflow server stays when nobody asks it anything"
    )
    tracking_database_url: str | None = Field(
        default=None, description="MLflow's own database, where the platform may not make one beside its own"
    )
    currency: str = Field(default="USD", min_length=1, max_length=8)
    instance_types: dict[str, InstanceTypeSpec] = Field(default_factory=dict)
    environments: dict[str, EnvironmentSpec] = Field(default_factory=dict)
    prices: Prices = Field(default_factory=Prices)
    substitutions: Substitutions = Field(default_factory=Substitutions)

    @classmethod
    def load(cls, home: Home, environ: Mapping[str, str] | None = None) -> Self:
        """Read ``home.config`` and the ``MW_*`` variables.

        Raises SetupFailed when the file cannot be read or is not YAML, Invalid with ``file:line`` and path of every
        wrong field.
        """
        data, lines = _read_yaml(home)
        variables = os.environ if environ is None else environ
        given = {field: (name, value) for name, field in _VARIABLES.items() if (value := variables.get(name))}
        if "home" in data:
            where = f"{home.config}:{lines['home']}"
            said = f"unknown field ({where}); the home is chosen by the variable MW_HOME"
            raise Invalid("the settings are wrong", fields=(FieldError("home", said),), remedy=_REMEDY)
        data["home"] = str(home.root)
        data |= {field: value for field, (_, value) in given.items()}
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            fields = tuple(
                FieldError(found.path, f"{found.message} ({_place(found.path, home, lines, given)})")
                for found in field_errors(error, cls, data)
            )
            raise Invalid("the settings are wrong", fields=fields, remedy=_REMEDY) from None

    def find_instance_type(self, name: str) -> InstanceType | None:
        """The user's own type of that name, else the shipped one."""
        spec = self.instance_types.get(name) or shipped_instance_types().get(name)
        return InstanceType.of(name, spec) if spec else None

    def instance_types_all(self) -> Sequence[InstanceType]:
        """Every type by name, the user's over the shipped ones."""
        merged = {**shipped_instance_types(), **self.instance_types}
        return [InstanceType.of(name, merged[name]) for name in sorted(merged)]

    def find_environment(self, name: str) -> EnvironmentSpec | None:
        """The user's own environment of that name, else the shipped one. Aliases are :meth:`environment_alias`'s."""
        return self.environments.get(name) or shipped_environments().environments.get(name)

    def environments_all(self) -> Mapping[str, EnvironmentSpec]:
        """Every environment, the user's over the shipped ones."""
        return {**shipped_environments().environments, **self.environments}

    def environment_alias(self, image: str) -> Substitution | None:
        """The environment that a cloud's image name stands for; a registry before the last ``/`` does not matter."""
        short = image.rsplit("/", 1)[-1]
        for rule in shipped_environments().aliases:
            if rule.matches(image) or rule.matches(short):
                return Substitution(field="image", requested=image, used=rule.to, origin="catalogue")
        return None

    def substitute(self, field: str, value: str) -> Substitution | None:
        """What the user wants used instead of ``value``. ``field`` is ``instance_type``, ``image`` or ``model``."""
        rules: tuple[Rule, ...] = getattr(self.substitutions, f"{field}s")
        for rule in rules:
            if rule.matches(value):
                return Substitution(field=field, requested=value, used=rule.to) if rule.to != value else None
        return None

    def kept(self, field: str, value: str) -> bool:
        """Whether the first rule that matches names the value itself: the user wants it as it is, whatever its name."""
        rules: tuple[Rule, ...] = getattr(self.substitutions, f"{field}s")
        return next((rule.to == value for rule in rules if rule.matches(value)), False)

    def price(self, resources: Resources) -> float:
        """Price per hour of resources that no instance type names."""
        prices = self.prices
        cpu, memory = resources.cpu / 1000, resources.memory / 1024**3
        return cpu * prices.cpu_hour + memory * prices.memory_gib_hour + resources.gpu * prices.gpu_hour


@cache
def shipped_instance_types() -> Mapping[str, InstanceTypeSpec]:
    """``data/instance_types.yaml``."""
    return {name: InstanceTypeSpec.parse(spec, at=name) for name, spec in _shipped("instance_types.yaml").items()}


@cache
def shipped_environments() -> Catalogue:
    """``data/environments.yaml``."""
    return Catalogue.parse(_shipped("environments.yaml"))


def _shipped(name: str) -> dict[str, Any]:
    text = (package_files.files("modelworks") / "data" / name).read_text("utf-8")
    data: dict[str, Any] = yaml.load(text, Loader=_LOADER)
    return data


_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def _read_yaml(home: Home) -> tuple[dict[str, Any], dict[str, int]]:
    """The mapping in ``home.config`` (empty when there is no file) and the line of every path in it."""
    try:
        text = home.config.read_text("utf-8")
    except FileNotFoundError:
        return {}, {}
    except (OSError, UnicodeDecodeError) as error:
        raise SetupFailed(f"cannot read {home.config}: {error}", remedy=_REMEDY) from error
    try:
        node = yaml.compose(text, Loader=_LOADER)
        data = yaml.load(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{home.config}:{mark.line + 1}" if mark else str(home.config)
        reason = getattr(error, "problem", None) or "not valid YAML"
        raise SetupFailed(f"{where}: {reason}", remedy=_REMEDY) from error
    if data is None:
        return {}, {}
    if not isinstance(data, dict):
        raise SetupFailed(f"{home.config}:1: expected settings as `name: value` lines", remedy=_REMEDY)
    lines: dict[str, int] = {}
    _find_lines(node, "", lines, home)
    return data, lines


def _find_lines(node: Any, at: str, lines: dict[str, int], home: Home) -> None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            path = f"{at}.{key.value}" if at else str(key.value)
            if path in lines:
                where = f"{home.config}:{key.start_mark.line + 1}"
                raise SetupFailed(f"{where}: {path} is written twice", remedy=_REMEDY)
            lines[path] = key.start_mark.line + 1
            _find_lines(value, path, lines, home)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            path = f"{at}.{index}" if at else str(index)
            lines[path] = value.start_mark.line + 1
            _find_lines(value, path, lines, home)


def _place(path: str, home: Home, lines: Mapping[str, int], given: Mapping[str, tuple[str, str]]) -> str:
    """Where a wrong field was written: its variable, or file and line of it or of the nearest field above it."""
    if path in given:
        return f"from the variable {given[path][0]}"
    while path and path not in lines:
        path = path.rpartition(".")[0]
    return f"{home.config}:{lines[path]}" if path else str(home.config)
