"""HTTP of storage: short-lived credentials for a client's own transfers."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import ConfigDict, Field

from modelworks.kernel.errors import FieldError, Invalid
from modelworks.kernel.quantities import Duration
from modelworks.kernel.run import Access
from modelworks.kernel.spec import Spec
from modelworks.objectstore import buckets
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.sts import mint
from modelworks.products.context import ContextOf, PrincipalOf, WorkspaceOf
from modelworks.products.mounts import workspace_bucket
from modelworks.products.storage.access import check_reach, check_writable, parse_uri

Uri = Annotated[str, Field(min_length=1, max_length=2048)]

_routes = APIRouter(prefix="/storage", tags=["storage"])


def router() -> APIRouter:
    return _routes


class CredentialsRequest(Spec):
    """What the credentials should be good for. ``duration`` is in seconds, or text such as ``1h``."""

    read: list[Uri] = Field(default_factory=list, max_length=32)
    write: list[Uri] = Field(default_factory=list, max_length=32)
    duration: Duration = Field(default=3600.0, ge=60, le=12 * 3600)

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"read": ["s3://digits/train/"], "write": [], "duration": "1h"}]}
    )


@_routes.post("/credentials", summary="Credentials scoped to prefixes", operation_id="createStorageCredentials")
def create_credentials(
    request: CredentialsRequest, context: ContextOf, principal: PrincipalOf, workspace: WorkspaceOf
) -> Credentials:
    """S3 credentials that read and write below these URIs and nowhere else.

    The workspace's own bucket is made when it is to be written and is not there.
    """
    if not request.read and not request.write:
        said = "name at least one URI to read or write"
        raise Invalid(said, fields=(FieldError("read", said), FieldError("write", said)))
    read = [parse_uri(uri, f"read.{index}") for index, uri in enumerate(request.read)]
    write = [parse_uri(uri, f"write.{index}") for index, uri in enumerate(request.write)]
    for index, uri in enumerate(write):
        check_writable(uri, f"write.{index}")
    with context.engine.connect() as connection:
        for uri in (*read, *write):
            check_reach(connection, principal, workspace, uri)
    base = context.credentials()
    own = workspace_bucket(workspace)
    if any(uri.bucket == own for uri in write):
        buckets.create(base, own)
    access = Access(read=tuple(map(str, read)), write=tuple(map(str, write)))
    return mint(base, access, request.duration, principal.name)
