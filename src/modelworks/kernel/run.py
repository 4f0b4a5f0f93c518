"""A run: one process tree on one node, what it needs, and what was seen of it.

The controller states runs, an agent carries them out alone: it needs nothing of the controller between ``ensure`` and
``Exited``. A run key is ``uid/attempt/ordinal/incarnation``; ``ensure`` of a key that exists finds the run and never
starts a second one, and a retry is another key.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Annotated, Any, Self

from pydantic import AfterValidator, Field, model_validator

from modelworks.kernel.quantities import Bytes, Cpu, Duration
from modelworks.kernel.spec import Spec

_KEY = re.compile(r"[a-z0-9]{6,32}/[a-z0-9]{1,32}/[0-9]{1,6}/[0-9]{1,6}")


@dataclass(frozen=True, order=True)
class RunKey:
    """``uid / revision or attempt / ordinal / incarnation``: also the run's directory below the agent's ``runs/``."""

    uid: str
    attempt: str
    ordinal: int = 0
    incarnation: int = 0

    def __str__(self) -> str:
        return f"{self.uid}/{self.attempt}/{self.ordinal}/{self.incarnation}"

    @staticmethod
    @lru_cache(maxsize=4096)  # every pass reads the same ones
    def parse(text: str) -> RunKey:
        if not _KEY.fullmatch(text):
            raise ValueError(f"not a run key: {text!r}; expected uid/attempt/ordinal/incarnation")
        uid, attempt, ordinal, incarnation = text.split("/")
        return RunKey(uid, attempt, int(ordinal), int(incarnation))


class Resources(Spec):
    """What a run occupies while it lives: CPU in millicores (written ``500m`` or cores), memory in bytes, GPUs."""

    cpu: Cpu = Field(default=1000, ge=1, le=10**9)
    memory: Bytes = Field(default=1024**3, ge=1024**2, le=1 << 60)
    gpu: int = Field(default=0, ge=0, le=64)
    gpu_model: str | None = Field(default=None, max_length=128)
    gpu_memory: Bytes | None = Field(default=None, ge=0, le=1 << 60)


class EnvironmentRef(Spec):
    """Packages or an image, resolved: two runs with the same digest share one built environment.

    ``requirements`` are pip lines. ``python`` is a version such as ``3.11``; None is the platform's own.
    """

    digest: str
    name: str | None = None
    requirements: tuple[str, ...] = ()
    python: str | None = None
    image: str | None = None


class Input(Spec):
    """Data made visible read-only at ``paths`` before the run starts.

    ``uri`` is ``s3://bucket/prefix/`` (a folder) or ``s3://bucket/key`` (one file). With ``unpack`` a ``.tar.gz``
    object is unpacked there. ``env`` names a variable that holds the path where mounts are not possible.
    """

    channel: str
    uri: str
    paths: tuple[str, ...]
    unpack: bool = False
    digest: str | None = None
    env: str | None = None


class Output(Spec):
    """A writable directory at ``paths``, uploaded to ``uri`` (``s3://bucket/prefix/``) while it works and at its end.

    With ``commit`` the end writes ``<uri>.manifest.json`` last: names, sizes, SHA-256 digests and the attempt; what no
    manifest names was never committed. The files of ``restore``, folders of the store, are in it before the run starts:
    of those with the same name, the one of the first folder. Plain files of ``lent``, folders of another run that are
    looked at in the same way, are in it, too, where there is none of that name; they are not sent back as they came.
    """

    name: str
    uri: str
    paths: tuple[str, ...]
    commit: bool = True
    env: str | None = None
    restore: tuple[str, ...] = ()
    lent: tuple[str, ...] = ()


class VolumeMount(Spec):
    """A persistent directory. ``source`` is an absolute path on the node."""

    name: str
    source: str
    path: str
    read_only: bool = False
    env: str | None = None


class File(Spec):
    """A small file written before the run starts, such as ``/ml/input/config/hyperparameters.json``."""

    path: str
    content: str


class Transport(StrEnum):
    """How the gateway reaches a replica."""

    UNIX = "unix"  # the replica listens on the Unix socket named by $MW_SOCKET
    PORT = "port"  # the replica listens on 127.0.0.1:$PORT inside a network namespace of its own, see runtime/portal


class Listen(Spec):
    """A run that serves HTTP, and how to see that it is ready. ``liveness`` fails after ``failures`` bad probes.

    With ``any_status`` every answer is a good one: who speaks HTTP at its port is ready.
    ``metrics`` is where its engine says what it does, as Prometheus text; None: nobody asks.
    """

    transport: Transport = Transport.UNIX
    port: int = Field(default=8000, ge=1, le=65535)
    path: str = "/health"
    period: Duration = 1.0
    timeout: Duration = 5.0
    startup: Duration = 120.0
    failures: int = 3
    any_status: bool = False
    network: str = Field(default="isolated", pattern="^(isolated|host)$")
    metrics: str | None = None


class Access(Spec):
    """Prefix-scoped rights of a run at the object store: ``s3://bucket/prefix`` each."""

    read: tuple[str, ...] = ()
    write: tuple[str, ...] = ()
    expose: bool = False  # hand the AWS_* variables to the workload itself


class Peer(Spec):
    """Another run of the gang: where it can be reached, and on which of its ports the look before the start listens.

    ``interface`` is where its node has the address, for people.
    """

    rank: int
    node: str
    address: str
    port: int
    interface: str = ""


class Rendezvous(Spec):
    """A run that is one of several, and what is looked at before its command starts.

    ``peers`` are all runs of the gang by rank, this one with them. Of rank 0 ``port`` is the one that the workload
    itself will listen on (``MASTER_PORT``). ``nonce`` is the same for one gang and attempt: who answers without it is
    somebody else. With ``network`` every run connects to every other within ``timeout`` seconds, or none starts.
    """

    rank: int
    peers: tuple[Peer, ...]
    nonce: str
    network: bool = True
    timeout: Duration = 30.0


class RunSpec(Spec):
    """All an agent needs to carry out one run, without asking anybody.

    ``command`` may be empty in an image, which then runs its own; ``args`` follow the command, or are the image's.
    ``disk`` bytes must be free where the run writes. A run with a ``lease`` lives so many seconds from when its agent
    gave the challenge that was last answered: ``challenge``, and later those of ``Runtime.renew``. One with ``relay``,
    the digest of a secret, is reached from other machines by whoever has the secret. ``numbers`` are regular
    expressions by name, each with one group, that find metrics in the log. A run with ``quiet`` is ``idle`` once
    nothing was seen of its work for so many seconds, and for ``quiet_steps`` of its own median steps.
    """

    key: Annotated[str, AfterValidator(lambda k: str(RunKey.parse(k)))]
    workspace: str
    kind: str
    name: str
    command: tuple[str, ...] = ()
    args: tuple[str, ...] = ()
    environment: EnvironmentRef | None = None
    env: dict[str, str] = Field(default_factory=dict)
    resources: Resources = Field(default_factory=Resources)
    inputs: tuple[Input, ...] = ()
    outputs: tuple[Output, ...] = ()
    volumes: tuple[VolumeMount, ...] = ()
    files: tuple[File, ...] = ()
    workdir: str = "/ml/usercode"
    listen: Listen | None = None
    access: Access = Field(default_factory=Access)
    log_uri: str | None = None
    time_limit: Duration | None = None
    grace: Duration = 30.0
    rendezvous: Rendezvous | None = None
    disk: Bytes = 0
    lease: Duration | None = None
    challenge: str = ""
    relay: str = Field(default="", pattern="^([0-9a-f]{64})?$")
    quiet: Duration | None = None
    quiet_steps: float = 0.0
    numbers: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.command and not self.image:
            raise ValueError("command is empty, and there is no image that has one")
        return self

    @property
    def image(self) -> str | None:
        """What the run is a container of, if it is one."""
        return self.environment.image if self.environment else None


class RunPhase(StrEnum):
    """Where a run is. ``PREPARING`` → ``RUNNING`` → (``FINALIZING``) → ``EXITED``; ``LOST`` has no exit status."""

    PREPARING = "Preparing"
    RUNNING = "Running"
    FINALIZING = "Finalizing"
    EXITED = "Exited"
    LOST = "Lost"

    @property
    def ended(self) -> bool:
        return self in (RunPhase.EXITED, RunPhase.LOST)


FINISHED = "Finished"
"""For ``stop``: those that the run served have finished, so its work is done, too."""


class RunReason(StrEnum):
    """Why a run is where it is, for decisions; the message is for people."""

    NONE = ""
    INPUT_MISSING = "InputMissing"
    ENVIRONMENT_FAILED = "EnvironmentFailed"
    STORE_UNREACHABLE = "StoreUnreachable"
    START_FAILED = "StartFailed"
    COMPLETED = "Completed"
    FAILED = "Failed"
    STOPPED = "Stopped"
    OUT_OF_MEMORY = "OutOfMemory"
    TIME_LIMIT = "TimeLimit"
    NOT_READY = "NotReady"  # the readiness probe did not pass within listen.startup
    UNHEALTHY = "Unhealthy"  # it was ready and then failed listen.failures probes
    OUTPUT_FAILED = "OutputFailed"
    PREFLIGHT_FAILED = "PreflightFailed"  # what the gang needs is not there: a peer, a port, disk, a device
    PREEMPTED = "Preempted"  # stopped after a notice, to go on in another attempt
    RESIZED = "Resized"  # stopped to go on in another attempt, with another number of replicas
    PEER_FAILED = "PeerFailed"  # stopped, since another run of its gang failed
    STALLED = "Stalled"  # did nothing for too long, and the policy was to end that
    BUDGET = "Budget"  # the money it might cost is spent
    LEASE_EXPIRED = "LeaseExpired"  # cut off from the controller, which may have started another attempt
    LOST = "Lost"


class Progress(Spec):
    """What a training script told through ``modelworks.train``, as of its last word.

    ``step_seconds`` is the median of the last steps, ``data_share`` the part of them (0-1) that waited for the loader.
    ``rates`` are per second by name (``samples``, ``tokens``), ``metrics`` the last values reported, such as ``loss``.
    """

    at: float
    step: int = 0
    steps: int | None = None  # in all, when the script knows
    epoch: float | None = None
    step_seconds: float | None = None
    data_share: float | None = None
    rates: dict[str, float] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    checkpoint: int | None = None  # the step of the last one that is whole in the object store


class RunObservation(Spec):
    """What an agent knows of one run. Times are Unix seconds (UTC), from the shim's own files.

    ``exit_code`` is the process's; a death by signal has ``signal`` and the code 128 + signal. ``address`` is
    ``unix:<path>`` once the replica may be asked, or ``tcp:<host>:<port>`` of its node's relay. ``outputs`` maps an
    output's name to its manifest: ``{uri, digest, size, files}``.
    """

    key: str
    phase: RunPhase
    reason: RunReason = RunReason.NONE
    message: str = ""
    node: str = ""
    pid: int | None = None
    created_at: float
    started_at: float | None = None
    exited_at: float | None = None
    exit_code: int | None = None
    signal: int | None = None
    ready: bool = False
    address: str | None = None
    log_bytes: int = 0
    outputs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    # Last sample: cpu (cores), memory (bytes), gpu and gpu_memory_busy (0-1); of its engine what agent/gauges.py names.
    usage: dict[str, float] = Field(default_factory=dict)
    last_lines: tuple[str, ...] = ()  # of the log, once ended badly
    # The last sign that it works: output, a step, a CPU, GPU or disk that is busy. As of the observation: an agent
    # tells of a change when ``idle`` changes, and not at each sign.
    active_at: float | None = None
    idle: bool = False
    progress: Progress | None = None


class NodeObservation(Spec):
    """What an agent says of its machine. ``address`` is the one by which other nodes reach what runs on it, at
    ``interface``.

    ``notice_at`` is when the machine's owner will take it away (Unix seconds), and ``notice`` who said so. Where runs
    live by leases, ``lease`` is for how long, in seconds: who knows the node says so, and not the node itself.
    """

    name: str
    address: str = "127.0.0.1"
    interface: str = "lo"
    notice_at: float | None = None
    notice: str = ""
    lease: Duration | None = None
    capacity: Resources
    labels: dict[str, str] = Field(default_factory=dict)
    taints: tuple[str, ...] = ()
    isolation: bool = True
    isolation_note: str = ""
    notes: tuple[str, ...] = ()
