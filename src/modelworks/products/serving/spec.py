"""What a user may write of a service. See docs/architecture.md, "Manifests"."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Self

from pydantic import AfterValidator, Field, model_validator

from modelworks.kernel.catalogue import EnvironmentSpec
from modelworks.kernel.quantities import Duration
from modelworks.kernel.run import Resources
from modelworks.kernel.spec import Spec
from modelworks.products.workload import Command, EnvName, EnvValue, VolumeReference, duplicates

_ENTRY = re.compile(r"[A-Za-z0-9_./-]+\.py:[A-Za-z_][A-Za-z0-9_]*")

_OWN_HEALTH = ("/health", "/v2/health/ready")


def _check_entry(entry: str) -> str:
    if not _ENTRY.fullmatch(entry) or entry.startswith("/") or ".." in entry:
        raise ValueError(f"not an entry: {entry!r}; write file and class, such as processor.py:Digits")
    return entry


def _check_health(path: str) -> str:
    if not path.startswith("/") or any(ord(character) <= 32 or ord(character) > 126 for character in path):
        raise ValueError(f"not a path: {path!r}; it begins with '/', such as /health")
    return path


Text = Annotated[str, Field(min_length=1, max_length=2048)]


class Processor(StrEnum):
    """What runs in a replica."""

    ONNX = "onnx"  # the platform's model server over ONNX Runtime
    PYTHON = "python"  # the same server around a class of the user's
    COMMAND = "command"  # any HTTP server on $PORT


class Readiness(Spec):
    """How a replica is seen to be ready: an HTTP GET of ``path`` answered with 2xx."""

    path: Annotated[str, AfterValidator(_check_health), Field(max_length=1024)] = "/health"
    timeout: Duration = Field(default=5.0, gt=0, le=600)
    startup: Duration = Field(default=120.0, ge=1, le=86_400)
    period: Duration = Field(default=1.0, ge=0.1, le=600)
    failures: int = Field(default=3, ge=1, le=100)


class Queue(Spec):
    """Where requests wait at the gateway when every replica is at its ``concurrency``."""

    size: int = Field(default=64, ge=0, le=100_000)
    timeout: Duration = Field(default=30.0, gt=0, le=3600)


class ServiceSpec(Spec):
    """A model, or any HTTP server, behind ``/api/predict/<name>``."""

    model: Text | None = Field(default=None, description="name:version, name@alias, or s3://bucket/prefix/")
    processor: Processor
    entry: Annotated[str, AfterValidator(_check_entry)] | None = Field(default=None, description="python: file:class")
    code: Text | None = Field(default=None, description="s3:// URI of a folder or a .tar.gz; the CLI uploads a folder")
    command: Command | None = Field(default=None, description="command: an HTTP server that listens on $PORT")
    environment: Text | EnvironmentSpec | None = Field(default=None, description="default: `default`")
    instance_type: Text | None = Field(default=None, description="a name of the catalogue; default local.small")
    resources: Resources | None = Field(default=None, description="instead of an instance type")
    replicas: int = Field(default=1, ge=0, le=1000, description="0: stopped")
    stopped: bool = Field(default=False, description="keep everything but run nothing")
    env: dict[EnvName, EnvValue] = Field(default_factory=dict, max_length=512)
    volumes: tuple[VolumeReference, ...] = Field(default=(), max_length=32)
    readiness: Readiness = Field(default_factory=Readiness)
    concurrency: int = Field(default=16, ge=1, le=10_000, description="requests at once in one replica")
    queue: Queue = Field(default_factory=Queue)
    network: str = Field(default="isolated", pattern="^(isolated|host)$")
    grace_period: Duration = Field(default=30.0, ge=0, le=3600)
    credentials: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.instance_type is not None and self.resources is not None:
            raise ValueError("give either instance_type or resources, not both")
        needs = {Processor.ONNX: "model", Processor.PYTHON: "entry", Processor.COMMAND: "command"}[self.processor]
        if getattr(self, needs) is None:
            raise ValueError(f"the processor {self.processor} needs {needs}")
        if self.processor is Processor.PYTHON and self.code is None:
            raise ValueError("the processor python needs code: the folder that holds the entry's file")
        for field, processor in (("command", Processor.COMMAND), ("entry", Processor.PYTHON)):
            if getattr(self, field) is not None and self.processor is not processor:
                raise ValueError(f"{field} is for the processor {processor}, not for {self.processor}")
        if self.processor is not Processor.COMMAND and self.readiness.path not in _OWN_HEALTH:
            raise ValueError(f"readiness.path is for the processor command; the model server has {_OWN_HEALTH[0]}")
        if self.network == "host" and self.processor is not Processor.COMMAND:
            raise ValueError("network: host is for the processor command")
        twice = duplicates([*(["/mnt/model"] if self.model else []), *(volume.mount_path for volume in self.volumes)])
        if twice:
            raise ValueError(f"two things are mounted at {', '.join(sorted(twice))}")
        return self

    @property
    def wanted(self) -> int:
        """How many replicas should run."""
        return 0 if self.stopped else self.replicas
