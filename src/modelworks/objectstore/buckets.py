"""Buckets themselves: made, looked for and removed. The platform's own work, with the controller's credentials."""

from __future__ import annotations

from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.request import StoreRefused, call, explain


def create(credentials: Credentials, bucket: str) -> None:
    """``bucket`` exists. Raises Conflict when somebody else owns the name, Unavailable without a store."""
    try:
        call(credentials, "PUT", f"/{bucket}")
    except StoreRefused as refused:
        if refused.code != "BucketAlreadyOwnedByYou":
            raise explain(refused, f"s3://{bucket}") from refused


def exists(credentials: Credentials, bucket: str) -> bool:
    try:
        call(credentials, "HEAD", f"/{bucket}")
    except StoreRefused as refused:
        if refused.status == 404:
            return False
        raise explain(refused, f"s3://{bucket}") from refused
    return True


def remove(credentials: Credentials, bucket: str) -> None:
    """``bucket`` is gone. Raises Conflict while it holds objects; one that is not there is no error."""
    try:
        call(credentials, "DELETE", f"/{bucket}")
    except StoreRefused as refused:
        if refused.code != "NoSuchBucket":
            raise explain(refused, f"s3://{bucket}") from refused


def list_buckets(credentials: Credentials) -> list[str]:
    """The names of all buckets that these credentials may see, sorted."""
    try:
        answer = call(credentials, "GET")
    except StoreRefused as refused:
        raise explain(refused, "the list of buckets") from refused
    if answer is None:
        return []
    return sorted(name.text for name in answer.iterfind(".//{*}Bucket/{*}Name") if name.text)
