"""Copies within the real embedded store and between its buckets, and outputs that are published by them."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from threading import Event
from typing import Any

import boto3
import obstore
import pytest

from modelworks.kernel.errors import Conflict, ModelworksError, NotFound
from modelworks.objectstore import buckets, multipart
from modelworks.objectstore import client as client_module
from modelworks.objectstore.client import ObjectClient, part_size
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.publish import publish
from modelworks.objectstore.transfer import upload
from modelworks.objectstore.uri import ObjectUri


@pytest.fixture
def client(store: Credentials) -> ObjectClient:
    return ObjectClient(store, deadline=5.0)


@pytest.mark.parametrize("size", [0, 5, (20 << 20) + 1])
def test_a_copy_between_buckets_is_whole(store: Credentials, bucket: str, size: int) -> None:
    client, data = ObjectClient(store), os.urandom(size)
    other = f"test-{secrets.token_hex(6)}"
    buckets.create(store, other)
    try:
        client.put(ObjectUri(bucket, "a/model"), data)
        client.copy(ObjectUri(bucket, "a/model"), ObjectUri(other, "b/model"))
        assert client.get(ObjectUri(other, "b/model")) == data
        with pytest.raises(NotFound):
            client.copy(ObjectUri(bucket, "none"), ObjectUri(other, "none"))
    finally:
        client.delete_prefix(ObjectUri(other))
        buckets.remove(store, other)


def _commit(client: ObjectClient, folder: ObjectUri, key: str, **files: bytes) -> None:
    for name, data in files.items():
        client.put(folder / name, data)
    manifest = {"version": 1, "key": key, "files": [{"path": name, "size": len(data)} for name, data in files.items()]}
    client.put(folder / ".manifest.json", json.dumps(manifest).encode())


def test_an_attempt_is_published_once_and_never_over_a_later_one(client: ObjectClient, bucket: str) -> None:
    target = ObjectUri(bucket, "best/")
    first, second = ObjectUri(bucket, "own/a1/"), ObjectUri(bucket, "own/a2/")
    assert not publish(client, second, target)  # nothing is committed yet
    _commit(client, second, "job123/a2/0/0", weights=b"second", **{f"part-{n}": b"x" for n in range(20)})
    client.put(second / "half.part", b"no manifest names this")
    beats: list[int] = []
    assert publish(client, second, target, lambda: beats.append(1))
    assert beats
    assert client.get(target / "weights") == b"second"
    assert not client.exists(target / "half.part")
    assert json.loads(client.get(target / ".manifest.json"))["key"] == "job123/a2/0/0"
    assert not publish(client, second, target)
    # The first attempt comes late.
    _commit(client, first, "job123/a1/0/0", weights=b"first")
    assert not publish(client, first, target)
    assert client.get(target / "weights") == b"second"
    # Another job's output is another matter.
    _commit(client, first, "job456/a1/0/0", weights=b"other")
    assert publish(client, first, target)
    assert client.get(target / "weights") == b"other"


@pytest.mark.parametrize("name", ["weights", "a b/c+ü%41&?#='.bin"])
def test_a_large_copy_is_made_in_parts(
    client: ObjectClient, bucket: str, monkeypatch: pytest.MonkeyPatch, name: str, store: Credentials
) -> None:
    monkeypatch.setattr(multipart, "WHOLE", 6 << 20)
    monkeypatch.setattr(multipart, "_PART", 5 << 20)
    source, target, data = ObjectUri(bucket, f"from/{name}"), ObjectUri(bucket, f"to/{name}"), os.urandom(11 << 20)
    client.put(source, data)
    client.copy(source, target)
    assert client.get(target) == data
    with pytest.raises(Conflict, match="given up"):
        client.copy(source, ObjectUri(bucket, "none"), given_up=lambda: True)
    with pytest.raises(ModelworksError):
        multipart.copy(client._repeat, ObjectUri(bucket, "gone"), ObjectUri(bucket, "none"), size=7 << 20, etag="x")
    assert not client.exists(ObjectUri(bucket, "none"))
    keys = {"aws_access_key_id": store.access_key_id, "aws_secret_access_key": store.secret_access_key}
    s3 = boto3.client("s3", endpoint_url=store.endpoint, region_name=store.region, **keys)  # type: ignore[call-overload]
    assert "Uploads" not in s3.list_multipart_uploads(Bucket=bucket)


def test_a_large_object_is_sent_in_no_more_parts_than_a_store_takes(
    client: ObjectClient, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert part_size(20 << 20, 8 << 20) == 8 << 20
    assert (500 << 30) / part_size(500 << 30, 8 << 20) <= 9_000
    monkeypatch.setattr(client_module, "_MOST_PARTS", 2)
    sent: list[int] = []
    put = obstore.put
    monkeypatch.setattr(obstore, "put", lambda *a, **given: (sent.append(given["chunk_size"]), put(*a, **given)))
    (tmp_path / "large").write_bytes(data := os.urandom(33 << 20))
    upload(client, tmp_path / "large", ObjectUri(bucket, "large"))
    assert sent == [-(-(33 << 20) // 2)]
    assert client.get(ObjectUri(bucket, "large")) == data


def test_whoever_waits_is_told_while_one_object_is_copied(
    client: ObjectClient, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = ObjectUri(bucket, "own/a1/"), ObjectUri(bucket, "best/")
    _commit(client, source, "job123/a1/0/0", weights=b"w", head=b"h")
    told, copy, copied = Event(), client.copy, list[str]()

    def slow(source: ObjectUri, target: ObjectUri, *rest: Any, **options: Any) -> None:
        copied.append(source.name)
        if source.name == "weights":
            told.clear()
            assert told.wait(60)
        copy(source, target, *rest, **options)

    monkeypatch.setattr(client, "copy", slow)
    assert publish(client, source, target, told.set)
    assert client.get(target / "weights") == b"w"
    client.delete(target / ".manifest.json")
    copied.clear()
    client.delete(target / "head")
    assert publish(client, source, target)
    assert copied == ["head"]  # what is there is not copied again


def test_a_copy_that_was_given_up_is_made_again(client: ObjectClient, bucket: str) -> None:
    source, target = ObjectUri(bucket, "own/a1/"), ObjectUri(bucket, "best/")
    _commit(client, source, "job123/a1/0/0", weights=b"w")

    def lost() -> None:
        raise Conflict("another one is at it")

    with pytest.raises(Conflict):
        publish(client, source, target, lost)
    assert not client.exists(target / ".manifest.json")
    assert publish(client, source, target)
    client.delete_prefix(source)
    assert not publish(client, source, target)
    assert client.get(target / "weights") == b"w"
