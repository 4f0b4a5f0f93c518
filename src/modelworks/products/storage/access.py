"""Who may reach which object: a key that is bound to a workspace reaches that workspace's buckets."""

from __future__ import annotations

from sqlalchemy import Connection

from modelworks.kernel.errors import FieldError, Forbidden, Invalid
from modelworks.kernel.principal import Principal
from modelworks.objectstore.uri import ObjectUri
from modelworks.products.mounts import MODELS, workspace_bucket
from modelworks.products.storage import queries


def parse_uri(text: str, path: str) -> ObjectUri:
    """Raises Invalid at ``path`` for text that is no object URI, or goes up with ``..``."""
    try:
        uri = ObjectUri.parse(text)
    except ValueError as error:
        raise Invalid("not an object URI", fields=(FieldError(path, str(error)),)) from None
    if any(part in (".", "..") for part in uri.key.split("/")) or any(c in text for c in "*?${}\\"):
        raise Invalid(
            "not a plain prefix", fields=(FieldError(path, "a prefix holds no '..', wildcards or variables"),)
        )
    return uri


def check_writable(uri: ObjectUri, path: str) -> None:
    """Raises Forbidden at ``path`` for where the registry keeps the versions of models: they never change."""
    if uri.bucket.startswith(workspace_bucket("")) and (
        uri.key.startswith(MODELS) or MODELS.startswith(uri.folder.key)
    ):
        said = f"versions of models in s3://{uri.bucket}/{MODELS} cannot be written: name another prefix"
        raise Forbidden(said, fields=(FieldError(path, said),), remedy="`mw model register` makes a version")


def check_reach(
    connection: Connection, principal: Principal, workspace: str, uri: ObjectUri, *, path: str | None = None
) -> None:
    """Raises Forbidden, at ``path``, for a bucket that is not the workspace's; keys bound to none reach them all."""
    own = workspace_bucket(workspace)
    if uri.bucket == own:
        return
    if uri.bucket.startswith(workspace_bucket("")):
        owner: str | None = uri.bucket.removeprefix(workspace_bucket(""))
    else:
        owner = queries.bucket_workspace(connection, uri.bucket)
    if owner == workspace:
        return
    if principal.workspace is not None:
        raise Forbidden(
            f"the key {principal.name} does not reach s3://{uri.bucket}/: the workspace {workspace} has no such bucket",
            remedy=f"`mw bucket create {uri.bucket}` makes one",
            fields=(FieldError(path, f"the workspace {workspace} has no bucket {uri.bucket}"),) if path else (),
        )
