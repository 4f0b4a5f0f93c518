"""The object store as a client sees it: short-lived keys from the platform, opening only what is asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from modelworks.kernel.errors import Invalid, Unavailable
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri
from modelworks.sdk.client import Client
from modelworks.sdk.waiting import phase_of, until

Progress = Callable[[int], None]


def workspace_bucket(workspace: str) -> str:
    """The bucket that holds a workspace's code, logs and default outputs."""
    return f"mw-{workspace}"


def parse_uri(text: str) -> ObjectUri:
    """``s3://bucket/key`` or ``oss://…``. Raises Invalid."""
    try:
        return ObjectUri.parse(text)
    except ValueError as error:
        raise Invalid(str(error)) from None


def open_store(client: Client, *, read: Sequence[str] = (), write: Sequence[str] = ()) -> ObjectClient:
    """A client of the store whose keys are renewed by the platform before they end."""

    def credentials() -> Credentials:
        return Credentials.parse(client.storage_credentials(read=read, write=write))

    return ObjectClient(credentials)


def ensure_bucket(client: Client, bucket: str) -> bool:
    """The bucket is there and can be written to; True when it was made now."""
    found = client.find("Bucket", bucket)
    if found is None or found["metadata"].get("deleting"):
        manifest = {"kind": "Bucket", "metadata": {"name": bucket, "workspace": client.workspace}, "spec": {}}
        client.apply([manifest])
    ready = until(client, "Bucket", bucket, lambda b: phase_of(b) in ("Ready", "Failed"), timeout=60)
    if phase_of(ready) != "Ready":
        raise Unavailable(f"bucket {bucket} is not ready: {ready['status'].get('message', '')}")
    return found is None
