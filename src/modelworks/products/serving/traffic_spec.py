"""What a user may write of a service's traffic: the canary beside the stable revision, mirroring, reversal, capture."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from modelworks.kernel.catalogue import EnvironmentSpec
from modelworks.kernel.quantities import Bytes, Duration
from modelworks.kernel.spec import Spec
from modelworks.products.workload import Argument, Command, EnvName, EnvValue

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
CLASS_ENTRY = re.compile(r"[A-Za-z0-9_./-]+\.py:[A-Za-z_][A-Za-z0-9_]*")
_FILE_ENTRY = re.compile(r"[^\x00-\x1f\x7f:\\]{1,1024}")

Text = Annotated[str, Field(min_length=1, max_length=2048)]


def _check_header(name: str) -> str:
    if not _HEADER.fullmatch(name):
        raise ValueError(f"not a header's name: {name!r}; write it as X-User-Id")
    return name


def _check_entry(entry: str) -> str:
    known = CLASS_ENTRY.fullmatch(entry) or _FILE_ENTRY.fullmatch(entry)
    if not known or entry.startswith("/") or ".." in entry.split("/"):
        raise ValueError(
            f"not an entry: {entry!r}; write file and class, such as processor.py:Digits, or a model's file"
        )
    return entry


Entry = Annotated[str, AfterValidator(_check_entry)]


class Batching(Spec):
    """Requests that our own model server computes together. A row is one entry of the inputs' first dimension."""

    max_batch_size: int = Field(default=16, ge=1, le=4096, description="rows in one call of the model; never exceeded")
    max_batch_delay_ms: float = Field(default=0.0, ge=0, le=10_000, description="how long a batch waits for more rows")


class Canary(Spec):
    """A second revision beside the service's own: its own fields with these in their place.

    ``weight`` percent of the requests go there; ``mirror`` percent of the others are sent there too, and their answers
    are dropped. At weight 100 the CLI makes the canary the service's own.
    """

    weight: int = Field(default=0, ge=0, le=100)
    mirror: int = Field(default=0, ge=0, le=100)
    replicas: int | None = Field(default=None, ge=1, le=1000, description="default: its weight's share, at least one")
    model: Text | None = None
    base_model: Text | None = None
    image: Text | None = None
    code: Text | None = None
    entry: Entry | None = None
    command: Command | None = None
    args: tuple[Argument, ...] | None = None
    environment: Text | EnvironmentSpec | None = None
    env: dict[EnvName, EnvValue] | None = Field(default=None, max_length=512)
    batching: Batching | None = None


class Reversal(Spec):
    """When a new revision is taken back by itself: it is worse than the old one by these margins.

    Judged after ``requests`` answers of the new revision in the ``window``, against the old one in the same time.
    """

    enabled: bool = True
    error_rate: float = Field(default=0.05, ge=0, le=1, description="more errors than the old one, as a share")
    latency: float = Field(default=2.0, gt=1, le=1000, description="p99 as a multiple of the old one's")
    min_latency: Duration = Field(default=0.05, ge=0, le=3600, description="a p99 below this is never too long")
    requests: int = Field(default=50, ge=1, le=1_000_000)
    window: Duration = Field(default=60.0, ge=5, le=600)


class Traffic(Spec):
    """How requests are divided between revisions, and when a new one is taken back."""

    sticky_header: Annotated[str, AfterValidator(_check_header)] | None = Field(
        default=None, description="requests with the same value of this header go to the same revision"
    )
    reversal: Reversal = Field(default_factory=Reversal)


class Capture(Spec):
    """A sample of requests and answers, kept as JSON lines in a bucket."""

    uri: Text = Field(description="s3://bucket/prefix/")
    percent: float = Field(default=1.0, gt=0, le=100)
    max_body: Bytes = Field(default=65_536, ge=0, le=4 * 1024**2, description="longer bodies are cut")
