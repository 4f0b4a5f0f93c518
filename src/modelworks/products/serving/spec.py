"""What a user may write of a service. See docs/architecture.md, "Manifests"."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from modelworks.kernel.catalogue import EnvironmentSpec
from modelworks.kernel.quantities import Bytes, Duration
from modelworks.kernel.run import Resources
from modelworks.kernel.spec import Spec
from modelworks.products.serving.alerts import Alerts
from modelworks.products.serving.scaling_spec import Autoscaling
from modelworks.products.serving.traffic_spec import CLASS_ENTRY, Batching, Canary, Capture, Entry, Text, Traffic
from modelworks.products.workload import Argument, Command, EnvName, EnvValue, MountPath, VolumeReference, duplicates

_OWN_HEALTH = ("/health", "/v2/health/ready")
MODEL_PATH = "/mnt/model"
MODEL_PATHS = (MODEL_PATH, "/eas/workspace/model")
BASE_MODEL_PATH = "/mnt/base"
WARM_UP_PATH = "/mnt/warm-up"
CODE_PATH = "/ml/usercode"
THREADS = "MW_WORKER_THREADS"
_PLACES, _MOST_PLACES = 16, 10_000
_WAITING = 1000
_CLASS_PLACES = 5  # as many threads as the cloud's Python processors have by default


def _check_health(path: str) -> str:
    if not path.startswith("/") or any(ord(character) <= 32 or ord(character) > 126 for character in path):
        raise ValueError(f"not a path: {path!r}; it begins with '/', such as /health")
    return path


def _check_webhook(url: str) -> str:
    """What can be told from the text alone; whether it may be called is judged when it is."""
    try:
        parts = urlsplit(url)
        port_is_one = parts.port is None or parts.port > 0
    except ValueError:
        port_is_one = False
    if not port_is_one or parts.scheme not in ("http", "https") or not parts.hostname or not url.isascii():
        raise ValueError(f"not an http(s) URL: {url!r}")
    if parts.username or parts.password:
        raise ValueError("a webhook holds no user's name: results are signed instead")
    return url


class Processor(StrEnum):
    """What runs in a replica."""

    # The platform's model server over an engine.
    ONNX = "onnx"
    TENSORRT = "tensorrt"
    SKLEARN = "sklearn"
    XGBOOST = "xgboost"
    LIGHTGBM = "lightgbm"
    TORCH = "torch"  # an exported program (.pt2)
    PYTHON = "python"  # a class of the user's
    # Templates: another server, whose command, port and health check we fill in.
    VLLM = "vllm"
    LLAMACPP = "llamacpp"
    TRITON = "triton"
    TORCHSERVE = "torchserve"
    TFSERVING = "tfserving"
    # Any HTTP server on $PORT.
    COMMAND = "command"
    IMAGE = "image"  # in a container

    @property
    def own_server(self) -> bool:
        """Whether the platform's model server runs in the replica."""
        return self in _OWN_SERVER

    @property
    def template(self) -> bool:
        return self in _TEMPLATES


_OWN_SERVER = frozenset(
    (
        Processor.ONNX, Processor.TENSORRT, Processor.SKLEARN, Processor.XGBOOST, Processor.LIGHTGBM, Processor.TORCH,
        Processor.PYTHON,
    )
)  # fmt: skip
_TEMPLATES = frozenset(
    (Processor.VLLM, Processor.LLAMACPP, Processor.TRITON, Processor.TORCHSERVE, Processor.TFSERVING)
)
_NEEDS = {Processor.PYTHON: "entry", Processor.COMMAND: "command", Processor.IMAGE: "image"}


class Readiness(Spec):
    """How a replica is seen to be ready: an HTTP GET of ``path`` answered with 2xx, or with ``status: any`` at all."""

    path: Annotated[str, AfterValidator(_check_health), Field(max_length=1024)] = "/health"
    status: Literal["any"] | None = Field(
        default=None, description="any: whatever the GET is answered with, where only the port tells; default: 2xx"
    )
    timeout: Duration = Field(default=5.0, gt=0, le=600)
    startup: Duration = Field(default=120.0, ge=1, le=86_400)
    period: Duration = Field(default=1.0, ge=0.1, le=600)
    failures: int = Field(default=3, ge=1, le=100)


class Queue(Spec):
    """Where requests wait at the gateway when every replica is at its ``concurrency``.

    A request that cannot be answered within ``timeout`` is refused as soon as that is seen, and not at its end.
    """

    size: int | None = Field(
        default=None, ge=0, le=100_000, description="default: 1000, or what replicas answer in 2.5 s if that is more"
    )
    timeout: Duration = Field(default=30.0, gt=0, le=3600)

    @property
    def places(self) -> int:
        """How many requests may wait in any case."""
        return _WAITING if self.size is None else self.size


class Rolling(Spec):
    """How a revision takes over from another: ``max_surge`` more replicas at once, ``max_unavailable`` fewer."""

    max_surge: int = Field(default=1, ge=0, le=1000)
    max_unavailable: int = Field(default=0, ge=0, le=1000)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.max_surge and not self.max_unavailable:
            raise ValueError("max_surge and max_unavailable are both 0: nothing could ever be replaced")
        return self


class Tasks(Spec):
    """An asynchronous service: a POST is answered 202 at once, and the result is kept for ``result_ttl``."""

    result_ttl: Duration = Field(default=86_400.0, ge=1, le=30 * 86_400)
    lease: Duration = Field(default=60.0, ge=1, le=3600, description="unless renewed, another try begins after it")
    attempts: int = Field(default=5, ge=1, le=100)
    max_pending: int = Field(default=100_000, ge=1, le=10_000_000)
    webhook: Annotated[Text, AfterValidator(_check_webhook)] | None = Field(
        default=None, description="an http(s) URL to which each result is posted"
    )


class ServiceSpec(Spec):
    """A model, or any HTTP server, behind ``/api/predict/<name>``."""

    model: Text | None = Field(default=None, description="name:version, name@alias, or s3://bucket/prefix/")
    base_model: Text | None = Field(default=None, description="what a LoRA adapter in `model` was trained on")
    processor: Processor
    entry: Entry | None = Field(default=None, description="python: file.py:Class; other engines: the model's file")
    code: Text | None = Field(default=None, description="s3:// URI of a folder or a .tar.gz; the CLI uploads a folder")
    command: Command | None = Field(default=None, description="command: an HTTP server that listens on $PORT")
    image: Text | None = Field(default=None, description="image, or a template in a container: registry/name:tag")
    args: tuple[Argument, ...] = Field(
        default=(), max_length=256, description="templates: more arguments of the server"
    )
    port: int = Field(default=8000, ge=1, le=65535, description="command, image, templates: where the server listens")
    environment: Text | EnvironmentSpec | None = Field(default=None, description="default: one that holds the engine")
    instance_type: Text | None = Field(default=None, description="a name of the catalogue; default local.small")
    resources: Resources | None = Field(default=None, description="instead of an instance type")
    node_selector: dict[str, str] = Field(default_factory=dict, max_length=64)
    tolerations: tuple[Text, ...] = Field(default=(), max_length=64, description="taints of nodes that do not matter")
    replicas: int = Field(default=1, ge=0, le=1000, description="0: stopped")
    autoscaling: Autoscaling | None = Field(default=None, description="instead of a fixed number of replicas")
    stopped: bool = Field(default=False, description="keep everything but run nothing")
    env: dict[EnvName, EnvValue] = Field(default_factory=dict, max_length=512)
    mounts: dict[MountPath, Text] = Field(
        default_factory=dict, max_length=64, description="s3:// URIs, read-only, at paths of their own"
    )
    volumes: tuple[VolumeReference, ...] = Field(default=(), max_length=32)
    readiness: Readiness = Field(default_factory=Readiness)
    batching: Batching | None = Field(default=None, description="own model server: rows computed together")
    warm_up: Text | None = Field(default=None, description="s3:// URI of request bodies, sent before it is ready")
    concurrency: int | None = Field(
        default=None,
        ge=1,
        le=10_000,
        description="requests at once in one replica; default 16, python without batching: 5",
    )
    queue: Queue = Field(default_factory=Queue)
    tasks: Tasks | None = None
    keepalive: Duration = Field(default=600.0, gt=0, le=86_400, description="to the first byte of an answer")
    hang_timeout: Duration | None = Field(
        default=None, ge=1, le=86_400, description="a replica silent for so long while it has requests is replaced;"
        " default: learnt from its answers"
    )  # fmt: skip
    max_body: Bytes = Field(default=100 * 1024**2, ge=0, le=16 * 1024**3)
    rate_limit: float | None = Field(default=None, gt=0, le=1e6, description="requests a second, all callers together")
    concurrency_limit: int | None = Field(
        default=None, ge=1, le=1_000_000, description="requests at once, all replicas"
    )
    rolling: Rolling = Field(default_factory=Rolling)
    canary: Canary | None = None
    traffic: Traffic = Field(default_factory=Traffic)
    capture: Capture | None = None
    alerts: Alerts = Field(default_factory=Alerts)
    network: str = Field(default="isolated", pattern="^(isolated|host)$")
    grace_period: Duration = Field(default=30.0, ge=0, le=3600)
    credentials: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        processor = self.processor
        if self.instance_type is not None and self.resources is not None:
            raise ValueError("give either instance_type or resources, not both")
        needs = _NEEDS.get(processor, "model")
        if getattr(self, needs) is None:
            raise ValueError(f"the processor {processor} needs {needs}")
        if processor is Processor.PYTHON and self.code is None:
            raise ValueError("the processor python needs code: the folder that holds the entry's file")
        if self.command is not None and processor not in (Processor.COMMAND, Processor.IMAGE):
            raise ValueError(f"command is for the processors command and image, not for {processor}")
        if self.entry is not None and not processor.own_server:
            raise ValueError(f"entry is for the platform's model server, not for {processor}")
        if self.entry is not None and (processor is Processor.PYTHON) != bool(CLASS_ENTRY.fullmatch(self.entry)):
            wanted = (
                "file and class, such as processor.py:Digits"
                if processor is Processor.PYTHON
                else "a file of the model"
            )
            raise ValueError(f"the entry of {processor} is {wanted}, not {self.entry!r}")
        if self.image is not None and processor is not Processor.IMAGE and not processor.template:
            raise ValueError(f"image is for the processor image and the templates, not for {processor}")
        if self.image is not None and self.environment is not None:
            raise ValueError("give either image or environment, not both: an image brings its own packages")
        if self.args and isinstance(self.command, str):
            raise ValueError("args follow a command that is a list; write them into the command's text")
        if self.args and processor is not Processor.IMAGE and not processor.template:
            raise ValueError(f"args is for the processor image and the templates, not for {processor}")
        if self.batching is not None and not processor.own_server:
            raise ValueError(f"batching is done by the platform's model server; the processor {processor} has its own")
        if self.warm_up is not None and not processor.own_server:
            raise ValueError(f"warm_up is done by the platform's model server; the processor {processor} has its own")
        if processor.own_server and self.readiness.path not in _OWN_HEALTH:
            raise ValueError(f"readiness.path is not for {processor}; the model server has {_OWN_HEALTH[0]}")
        if self.network == "host" and processor.own_server:
            raise ValueError("network: host is for the processors command and image, and the templates")
        own = [path for path, given in ((MODEL_PATH, self.model), (BASE_MODEL_PATH, self.base_model)) if given]
        volumes = [volume.mount_path for volume in self.volumes]
        twice = duplicates([*own, *volumes]) | self._taken(volumes) & self.mounts.keys()
        if twice:
            raise ValueError(f"two things are mounted at {', '.join(sorted(twice))}")
        return self

    def _taken(self, volumes: list[str]) -> set[str]:
        """Paths at which there is something else than ``mounts``."""
        own = ((MODEL_PATHS, self.model), ((BASE_MODEL_PATH,), self.base_model))
        others = (((CODE_PATH,), self.code), ((WARM_UP_PATH,), self.warm_up))
        return {*volumes, *(path for paths, given in (*own, *others) if given for path in paths)}

    @property
    def places(self) -> int:
        """How many requests one replica is given at once.

        A class computes each on a thread: with more places than threads some would wait in the replica, and be lost
        with it though none had begun them.
        """
        if self.concurrency is not None:
            return self.concurrency
        if self.processor is not Processor.PYTHON or self.batching is not None:
            return _PLACES
        threads = self.env.get(THREADS, "")
        return int(threads) if threads.isdecimal() and 1 <= int(threads) <= _MOST_PLACES else _CLASS_PLACES

    @property
    def wanted(self) -> int:
        """How many replicas should run when nothing scales them."""
        return 0 if self.stopped else self.replicas
