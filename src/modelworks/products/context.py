"""What a product's HTTP routes get: the controller's shared parts, who asks, and for which workspace."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Protocol, cast

from fastapi import Depends, Path, Query, Request
from sqlalchemy import Engine

from modelworks.db.secrets import Cipher
from modelworks.home import Home
from modelworks.kernel.principal import Principal
from modelworks.kernel.resource import DEFAULT_WORKSPACE, Name, WorkspaceName
from modelworks.kernel.traffic import Traffic
from modelworks.objectstore.credentials import Credentials
from modelworks.products.kind import Kind
from modelworks.runtime.base import Runtime
from modelworks.settings import Settings


class Context(Protocol):
    """``control.context.Context``, as far as products may use it."""

    @property
    def engine(self) -> Engine: ...
    @property
    def home(self) -> Home: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def kinds(self) -> Mapping[str, Kind]: ...
    @property
    def runtimes(self) -> Mapping[str, Runtime]: ...
    @property
    def cipher(self) -> Cipher: ...
    @property
    def traffic(self) -> Callable[[str], Traffic]: ...
    @property
    def holders(self) -> Callable[[str], Sequence[Runtime]]: ...
    @property
    def credentials(self) -> Callable[[], Credentials]: ...


def _context(request: Request) -> Context:
    return cast(Context, request.app.state.context)


def _principal(request: Request) -> Principal:
    return cast(Principal, request.state.principal)


def _workspace(
    request: Request,
    workspace: Annotated[
        WorkspaceName | None, Query(description="Default: the key's own workspace, else `default`.")
    ] = None,
) -> str:
    # That the key may use it was checked when the key was: api/auth refuses before any route runs.
    return workspace or _principal(request).workspace or DEFAULT_WORKSPACE


ContextOf = Annotated[Context, Depends(_context)]
PrincipalOf = Annotated[Principal, Depends(_principal)]
WorkspaceOf = Annotated[str, Depends(_workspace)]
NamePath = Annotated[Name, Path(description="Its name.", examples=["digits"])]
ReplicaQuery = Annotated[int, Query(ge=0, le=1023, description="Which replica; the first is 0.")]
PageSize = Annotated[int, Query(ge=1, le=1000, description="How many at most.")]
