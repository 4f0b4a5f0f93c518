"""What a product declares of each kind of resource it owns. ``control/kinds`` lists them; nothing registers itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeVar

from sqlalchemy import Connection

from modelworks.kernel.decision import Decision
from modelworks.kernel.errors import Forbidden
from modelworks.kernel.principal import PLATFORM, Principal
from modelworks.kernel.resource import Metadata, Resource
from modelworks.kernel.run import RunObservation
from modelworks.kernel.spec import Spec
from modelworks.kernel.traffic import Traffic
from modelworks.objectstore.credentials import Credentials
from modelworks.settings import Settings


@dataclass(frozen=True)
class ClaimView:
    """A claim as admission left it: ``node`` is None while it waits, ``reason`` then says for what.

    ``address`` and ``interface`` are the node's, which may be cut off where runs are ``leased``. A claim with
    ``evict_at`` (Unix seconds) is to be given back by then; ``evict_reason`` is who wants it, for people.
    """

    key: str
    gang: str
    node: str | None
    reason: str
    created_at: datetime
    placed_at: datetime | None
    address: str = "127.0.0.1"
    interface: str = "lo"
    leased: bool = False
    evict_at: float | None = None
    evict_reason: str = ""


@dataclass(frozen=True)
class Lookup:
    """What ``resolve`` may read at apply: the settings, other resources, a product's own tables. It writes nothing.

    ``principal`` is who applies: what a workspace's key may not reach itself, its workloads may not reach for it.
    """

    connection: Connection
    settings: Settings
    resource: Callable[[str, str, str], Resource | None]  # workspace, kind, name
    principal: Principal = PLATFORM


@dataclass(frozen=True)
class Resolved:
    """Names made facts: digests, shapes, prices, substitutions. Compared by apply: a moved alias is a change.

    ``notes`` are printed to the user and not stored; what was substituted belongs into ``data`` too.
    """

    data: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


T = TypeVar("T")


class World(Protocol):
    """What ``observe`` may read. Raises Unavailable when a node cannot be asked: the pass is then repeated later."""

    @property
    def connection(self) -> Connection: ...
    @property
    def settings(self) -> Settings: ...
    def runs(self, uid: str) -> Sequence[RunObservation]: ...
    def claims(self, uid: str) -> Sequence[ClaimView]: ...
    def traffic(self, uid: str, every: float | None = None) -> Traffic:
        """What the gateways said of a service's requests lately; empty when none has said anything.

        ``every``: there is a pass so often (s) while its traffic changes, for a minute; None: only at news.
        """
        ...

    def measure(self, uid: str) -> None:
        """Keep what its runs use fresh (``RunObservation.usage``), with a pass every few seconds."""
        ...

    def shared(self, load: Callable[[Connection, Sequence[Resource]], T]) -> T:
        """``load`` of all resources of this pass, asked once: a query for each would cost more than all the rest."""
        ...


def check_may_write(kind: Kind, principal: Principal) -> None:
    """Raises Forbidden for a key that may not write resources of the kind."""
    if kind.administrators and not principal.administrator:
        raise Forbidden(
            f"the key {principal.name} may not change a {kind.name}: that is for keys of all workspaces",
            remedy="ask who runs the platform",
        )


def resolve_nothing(metadata: Metadata, spec: Any, lookup: Lookup) -> Resolved:
    """For kinds whose spec holds no names."""
    return Resolved()


ADVICE_PATIENCE = 1.0
"""Seconds that all advice of one request may take."""


@dataclass(frozen=True)
class Kind:
    """One kind. ``decide`` is None for kinds that are data only (an instance type): they are ready once stored.

    ``immutable`` spec paths may not change in an update (apply answers Conflict); ``check_delete`` raises Conflict for
    what may not be deleted now. ``advise`` looks at the object store for notes about what was just created, for so many
    seconds at most. What is for ``administrators`` only keys of the whole platform write.
    """

    name: str
    plural: str
    spec: type[Spec]
    short: tuple[str, ...] = ()
    resolve: Callable[[Metadata, Any, Lookup], Resolved] = resolve_nothing
    observe: Callable[[Resource, World], Any] | None = None
    decide: Callable[[Resource, Any, datetime], Decision] | None = None
    immutable: tuple[str, ...] = ()
    check_delete: Callable[[Resource, Connection], None] | None = None
    advise: Callable[[Resource, Callable[[], Credentials], float], Sequence[str]] | None = None
    administrators: bool = False
    example: dict[str, Any] = field(default_factory=dict)
