"""The object client on the real embedded store."""

from __future__ import annotations

from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri


def test_put_get(store: Credentials, bucket: str) -> None:
    client = ObjectClient(store)
    uri = ObjectUri(bucket, "a/b.txt")
    client.put(uri, b"hello")
    assert client.get(uri) == b"hello"
    assert [i.key for i in client.list(ObjectUri(bucket, "a"))] == ["a/b.txt"]
