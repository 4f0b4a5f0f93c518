"""What a pass over one resource decides: a new status, and actions from a closed union.

A decision is data. ``control/act`` is the only interpreter; carrying an action out twice does what once does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modelworks.kernel.events import Level
from modelworks.kernel.run import Resources, RunSpec


@dataclass(frozen=True)
class Claim:
    """A run's wish for room on a node. Claims of one ``gang`` are placed together or not at all."""

    key: str
    gang: str
    resources: Resources
    instance_type: str
    price_per_hour: float
    priority: int = 0
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: tuple[str, ...] = ()
    spread: str | None = None  # a node label to spread over, such as "zone"
    lasting: bool = False  # does not end by itself: a service's replica
    preemptible: bool = False  # may be evicted for a gang of higher priority
    notice: float = 30.0  # seconds that it has to end when it is evicted for one
    optional: bool = False  # the gang is placed without it where there is no room: an elastic job's further replicas
    spot: bool = False  # on an instance that may be taken away, at the spot price
    avoid: str = ""  # a node that is taken only where no other has room

    def named(self, key: str, gang: str) -> Claim:
        """The same wish under another name. Much quicker than ``replace``, for who reads thousands of them."""
        made = object.__new__(Claim)
        made.__dict__.update(self.__dict__, key=key, gang=gang)
        return made


@dataclass(frozen=True)
class Reserve:
    """Queue claims for admission. A placed claim is in the ledger from that moment."""

    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Release:
    """Give a claim's room back; the ledger row ends at ``ended_at`` (Unix seconds; None is now)."""

    key: str
    ended_at: float | None = None


@dataclass(frozen=True)
class Transfer:
    """The placed claim ``key`` becomes ``claim``, another of the same owner, on the same node.

    The room is at no moment free for others. ``ended_at`` is when the old one's run ended (Unix seconds).
    """

    key: str
    claim: Claim
    ended_at: float | None = None


@dataclass(frozen=True)
class EnsureRun:
    """The run exists on ``node``, started at most once. With ``epoch``, EnsureKey's key is its ``MW_TOKEN``."""

    node: str
    run: RunSpec
    epoch: str = ""


@dataclass(frozen=True)
class StopRun:
    """SIGTERM, ``grace`` seconds, SIGKILL to the whole tree. ``message`` is for the program's notice, and people."""

    node: str
    key: str
    grace: float
    reason: str = "Stopped"
    message: str = ""


@dataclass(frozen=True)
class StacksOf:
    """A living run whose stacks are wished for."""

    node: str
    key: str
    rank: int


@dataclass(frozen=True)
class CaptureStacks:
    """What living runs do now is appended to the log of each, and kept as the data of an event for each."""

    runs: tuple[StacksOf, ...]


OWNER = "modelworks/owner"
"""The label of a child with the uid of who made it: names may be used again, uids are not."""


BOUND = "bound"
"""True in ``resolved`` of who was applied with a key of its workspace: its children reach no more than that key."""


@dataclass(frozen=True)
class CreateChild:
    """The resource has a child of this name, as if somebody had applied the manifest; one that exists is left alone."""

    kind: str
    name: str
    spec: Mapping[str, Any]
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class CancelChild:
    """A child job is asked to end; ``reason`` is told in its events."""

    kind: str
    name: str
    reason: str


@dataclass(frozen=True)
class RemoveChild:
    """The child is deleted as if somebody had deleted it; one that is not there is ignored."""

    kind: str
    name: str


@dataclass(frozen=True)
class TrialWish:
    """The trial ``number`` of a sweep is to have parameters: these, or else what the algorithm draws."""

    number: int
    fixed: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class TrialReport:
    """What a trial that goes on measured at a step."""

    number: int
    step: int
    value: float


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended: ``complete`` with a value, ``pruned``, ``failed`` or ``stopped``; ``reason`` is for people."""

    number: int
    state: str
    value: float | None = None
    step: int | None = None
    reason: str = ""


@dataclass(frozen=True)
class TuneTrials:
    """The sweep's study knows of these results and reports, and trials that are wished for have parameters.

    ``study`` holds the terms: ``direction``, ``parameters``, ``algorithm``. What comes of it is in the table of trials.
    """

    study: Mapping[str, Any]
    results: tuple[TrialResult, ...] = ()
    reports: tuple[TrialReport, ...] = ()
    wishes: tuple[TrialWish, ...] = ()


@dataclass(frozen=True)
class DropTrials:
    """The sweep has no study any more. ``known``: there were trials, so there was one."""

    known: bool = True


@dataclass(frozen=True)
class CopyObjects:
    """All below the folder ``source`` is below ``target`` too (``s3://bucket/prefix/`` each), its manifest last."""

    source: str
    target: str


@dataclass(frozen=True)
class ForgetRun:
    """Drop an ended run's directory on its node; its log is in the object store."""

    node: str
    key: str


@dataclass(frozen=True)
class PublishRoute:
    """Tell the gateways where a service's replicas are. ``route`` is the document of ``gateway/table.Route``."""

    workspace: str
    name: str
    route: Mapping[str, Any]


@dataclass(frozen=True)
class WithdrawRoute:
    workspace: str
    name: str


@dataclass(frozen=True)
class RecordRevision:
    """A service's revision is kept, with the next number, as ``spec`` and ``resolved`` made it; once."""

    revision: str
    spec: Mapping[str, Any]
    resolved: Mapping[str, Any]


@dataclass(frozen=True)
class RecordScale:
    """A service's wanted number of replicas changed; ``numbers`` are what that was decided from."""

    before: int
    after: int
    reason: str
    numbers: Mapping[str, Any]


@dataclass(frozen=True)
class EnsureSecret:
    """The resource has a random secret of 256 bits called ``name``: made once, encrypted, gone with the resource."""

    name: str


@dataclass(frozen=True)
class EnsureKey:
    """The resource has an API key for its workspace, of the attempt ``epoch``; that of an earlier one ends."""

    epoch: str


@dataclass(frozen=True)
class RemoveKey:
    """The resource's API key ends."""


@dataclass(frozen=True)
class EnsureBucket:
    bucket: str


@dataclass(frozen=True)
class RemoveBucket:
    """Remove a bucket. While it holds objects it stays, with an event unless ``quiet``, and no Remove follows."""

    bucket: str
    quiet: bool = False


@dataclass(frozen=True)
class RemoveObjects:
    """Nothing lies below the folder ``uri`` (``s3://bucket/prefix/``)."""

    uri: str


@dataclass(frozen=True)
class EnsureDirectory:
    """A volume's directory exists. ``size`` is its nominal size in bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class RemoveDirectory:
    path: str


@dataclass(frozen=True)
class Meter:
    """An occupation other than a claim's begins (``ended`` False) or ends: a volume, a bucket's bytes.

    ``key`` names the ledger row; quantities are in ``unit`` (such as ``GiB``), the price is per unit and hour.
    """

    key: str
    item: str
    quantity: float
    unit: str
    price_per_hour: float
    ended: bool = False


@dataclass(frozen=True)
class Emit:
    """Append an event about the resource."""

    reason: str
    message: str
    level: Level = Level.NORMAL
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Remove:
    """The deleting resource holds nothing more: drop its row."""


Action = (
    Reserve
    | Release
    | Transfer
    | EnsureRun
    | StopRun
    | CaptureStacks
    | CreateChild
    | CancelChild
    | RemoveChild
    | TuneTrials
    | DropTrials
    | CopyObjects
    | ForgetRun
    | PublishRoute
    | WithdrawRoute
    | RecordRevision
    | RecordScale
    | EnsureSecret
    | EnsureKey
    | RemoveKey
    | EnsureBucket
    | RemoveBucket
    | RemoveObjects
    | EnsureDirectory
    | RemoveDirectory
    | Meter
    | Emit
    | Remove
)


@dataclass(frozen=True)
class Decision:
    """``status`` is written as a whole when it differs; ``wake_in`` asks for another pass after so many seconds."""

    status: Mapping[str, Any]
    actions: tuple[Action, ...] = ()
    wake_in: float | None = None
