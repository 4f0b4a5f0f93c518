"""The object client, buckets and STS on the real embedded store."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
import socket
from functools import partial
from pathlib import Path
from threading import Lock

import boto3
import pytest
from botocore.config import Config

from modelworks.home import Home
from modelworks.kernel.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from modelworks.kernel.run import Access
from modelworks.objectstore import buckets, sts
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.transfer import download, download_tree, upload, upload_tree
from modelworks.objectstore.uri import ObjectUri
from modelworks.products.training.inputs import look
from modelworks.products.training.spec import TrainingJobSpec


class Counted:
    """A progress callback that adds up."""

    def __init__(self) -> None:
        self.total = 0
        self._lock = Lock()

    def __call__(self, delta: int) -> None:
        with self._lock:
            self.total += delta


@pytest.fixture
def client(store: Credentials) -> ObjectClient:
    return ObjectClient(store, deadline=5.0)


def test_objects(client: ObjectClient, bucket: str) -> None:
    uri = ObjectUri(bucket, "a/b c+ü.txt")
    assert not client.exists(uri)
    client.put(uri, b"hello")
    assert client.get(uri) == b"hello"
    assert [client.get_range(uri, start, 3) for start in (1, 3, 5, 9)] == [b"ell", b"lo", b"", b""]
    info = client.head(uri)
    assert (info.key, info.size, info.etag) == (uri.key, 5, hashlib.md5(b"hello").hexdigest())
    client.copy(uri, ObjectUri(bucket, "a/copy"))
    assert [i.key for i in client.list(ObjectUri(bucket, "a"))] == ["a/b c+ü.txt", "a/copy"]
    client.delete(uri)
    client.delete(uri)
    assert [i.key for i in client.list(ObjectUri(bucket))] == ["a/copy"]
    assert client.delete_prefix(ObjectUri(bucket, "a/")) == 1
    assert list(client.list(ObjectUri(bucket))) == []


def test_what_is_missing_is_named(client: ObjectClient, bucket: str) -> None:
    with pytest.raises(NotFound, match=f"s3://{bucket}/nothing"):
        client.get(ObjectUri(bucket, "nothing"))
    with pytest.raises(NotFound):
        list(client.list(ObjectUri("no-such-bucket", "x/")))
    with pytest.raises(NotFound):
        client.put(ObjectUri("no-such-bucket", "x"), b"")


def test_a_store_that_is_away_is_unavailable(store: Credentials) -> None:
    away = store.model_copy(update={"endpoint": "http://127.0.0.1:9"})
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        ObjectClient(away, deadline=0.0).get(ObjectUri("bucket", "x"))
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        buckets.list_buckets(away)


def test_a_job_is_told_that_it_does_not_begin_with_the_checkpoints_of_another(
    store: Credentials, client: ObjectClient, bucket: str
) -> None:
    spec = TrainingJobSpec.parse({"command": "true"}, at="spec")
    folder = ObjectUri(bucket, "mine/ck/")
    told = partial(look, lambda: store, spec, {"checkpoints": str(folder)}, 30.0)
    assert told() == []
    client.put(folder / "second/job222/a1/step-5/manifest.json", b"{}")
    assert told(uid="job222") == []
    client.put(folder / "first/job111/a1/step-5/manifest.json", b"{}")
    (note,) = told(uid="job222")
    assert "this job does not begin with them" in note
    assert look(lambda: store, spec, {}, 30.0) == []


def test_a_store_that_takes_a_call_and_says_nothing_is_waited_for_no_longer_than_is_said(store: Credentials) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        deaf = store.model_copy(update={"endpoint": f"http://127.0.0.1:{server.getsockname()[1]}"})
        client = ObjectClient(deaf, deadline=0.0, timeout=0.2)
        with pytest.raises(Unavailable):
            client.first(ObjectUri("bucket", "x/"), 1000)
        # By default it would be ten minutes; no note is worth more than what is left of the patience.
        spec = TrainingJobSpec.parse({"command": "true", "replicas": 2, "inputs": {"a": "s3://bucket/a/"}}, at="spec")
        resolved = {"mounts": {"/mnt/b": "s3://bucket/b/"}}
        assert look(lambda: deaf, spec, resolved, 0.2) == []


def test_wrong_keys_are_forbidden(store: Credentials, bucket: str) -> None:
    wrong = store.model_copy(update={"secret_access_key": "wrong"})
    with pytest.raises(Forbidden):
        ObjectClient(wrong).get(ObjectUri(bucket, "x"))
    with pytest.raises(Forbidden):
        buckets.list_buckets(wrong)


def test_buckets(store: Credentials, client: ObjectClient) -> None:
    name = f"test-{secrets.token_hex(6)}"
    buckets.create(store, name)
    buckets.create(store, name)
    assert buckets.exists(store, name)
    assert name in buckets.list_buckets(store)
    client.put(ObjectUri(name, "x"), b"x")
    with pytest.raises(Conflict):
        buckets.remove(store, name)
    client.delete(ObjectUri(name, "x"))
    buckets.remove(store, name)
    buckets.remove(store, name)
    assert not buckets.exists(store, name)


def test_the_agent_has_objects_but_no_buckets(agent_store: Credentials, bucket: str) -> None:
    ObjectClient(agent_store).put(ObjectUri(bucket, "x"), b"x")
    with pytest.raises(Forbidden):
        buckets.create(agent_store, "agents-own")
    with pytest.raises(Forbidden):
        buckets.remove(agent_store, bucket)


def test_trees(client: ObjectClient, bucket: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    files = {f"d{i % 3}/f{i}.bin": secrets.token_bytes(1000 + i) for i in range(30)} | {"large": bytes(20 << 20)}
    for name, data in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    size = sum(map(len, files.values()))
    up, down = Counted(), Counted()
    sent = upload_tree(client, source, ObjectUri(bucket, "tree"), progress=up)
    assert {u.key for u in sent} == {f"tree/{name}" for name in files}
    found = download_tree(client, ObjectUri(bucket, "tree"), tmp_path / "target", progress=down)
    assert len(found) == len(files)
    assert {n: (tmp_path / "target" / n).read_bytes() for n in files} == files
    assert (up.total, down.total) == (size, size)
    assert [p.name for p in (tmp_path / "target").rglob("*.part")] == []


def test_a_failed_download_leaves_nothing(client: ObjectClient, bucket: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        download(client, ObjectUri(bucket, "nothing"), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_file(client: ObjectClient, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    upload(client, tmp_path / "empty", ObjectUri(bucket, "empty"))
    assert download(client, ObjectUri(bucket, "empty"), tmp_path / "back") == 0
    assert (tmp_path / "back").read_bytes() == b""


def test_keys_that_leave_the_directory_are_refused(client: ObjectClient, bucket: str, store: Credentials) -> None:
    s3 = _boto(store)
    try:
        s3.put_object(Bucket=bucket, Key="in/../../escape", Body=b"x")
    except s3.exceptions.ClientError:
        return  # the store refuses such keys itself
    with pytest.raises(Invalid):
        download_tree(client, ObjectUri(bucket, "in"), Path("/nonexistent"))


@pytest.fixture
def scoped(agent_store: Credentials, client: ObjectClient, bucket: str) -> Credentials:
    """What a run with one input and one output gets, minted by the agent; the bucket holds more than that."""
    for key in ("in/x", "in2/y", "out/z", "other"):
        client.put(ObjectUri(bucket, key), b"data")
    access = Access(read=(f"s3://{bucket}/in/",), write=(f"s3://{bucket}/out/",))
    return sts.mint(agent_store, access, 900, "uid/1/0/0")


def test_scoped_credentials_reach_their_prefixes(scoped: Credentials, bucket: str, tmp_path: Path) -> None:
    inside = ObjectClient(scoped)
    assert inside.get(ObjectUri(bucket, "in/x")) == b"data"
    assert [i.key for i in inside.list(ObjectUri(bucket, "in/"))] == ["in/x"]
    inside.put(ObjectUri(bucket, "out/n"), b"new")
    inside.copy(ObjectUri(bucket, "in/x"), ObjectUri(bucket, "out/copy"))
    (tmp_path / "large").write_bytes(bytes(20 << 20))
    upload(inside, tmp_path / "large", ObjectUri(bucket, "out/large"))
    assert inside.delete_prefix(ObjectUri(bucket, "out/")) == 4
    assert scoped.expires_at is not None


def test_scoped_credentials_reach_nothing_else(scoped: Credentials, client: ObjectClient, bucket: str) -> None:
    inside = ObjectClient(scoped)
    with pytest.raises(Forbidden):
        inside.get(ObjectUri(bucket, "in2/y"))
    with pytest.raises(Forbidden):
        inside.head(ObjectUri(bucket, "other"))
    with pytest.raises(Forbidden):
        inside.put(ObjectUri(bucket, "in/n"), b"")
    with pytest.raises(Forbidden):
        inside.copy(ObjectUri(bucket, "in2/y"), ObjectUri(bucket, "out/stolen"))
    for prefix in ("", "in2/", "i"):
        with pytest.raises(Forbidden):
            list(inside.list(ObjectUri(bucket, prefix)))
    s3 = _boto(scoped)
    # A batch delete answers per key; what counts is that the object is still there.
    s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": "in/x"}, {"Key": "other"}]})
    assert client.exists(ObjectUri(bucket, "in/x"))
    assert client.exists(ObjectUri(bucket, "other"))
    with pytest.raises(s3.exceptions.ClientError, match="AccessDenied"):
        s3.list_objects(Bucket=bucket, Prefix="in2/")
    with pytest.raises(s3.exceptions.ClientError, match="AccessDenied"):
        s3.get_bucket_policy(Bucket=bucket)
    with pytest.raises(Forbidden):
        buckets.create(scoped, "workloads-own")
    assert buckets.list_buckets(scoped) == []


def test_scoped_credentials_cannot_mint_wider_ones(scoped: Credentials, bucket: str) -> None:
    with pytest.raises(Forbidden):
        sts.mint(scoped, Access(read=(f"s3://{bucket}/",)), 900, "again")
    service = boto3.client("sts", **_arguments(scoped))
    with pytest.raises(service.exceptions.ClientError):
        service.assume_role(RoleArn=sts.ROLE, RoleSessionName="again")
    with pytest.raises(service.exceptions.ClientError):
        service.get_federation_token(Name="again")


def test_a_scoped_session_ends_with_its_token(scoped: Credentials, store_home: Home, bucket: str) -> None:
    # A session lasts 15 minutes at least, so the same session is signed again as one that has ended.
    key = base64.b64decode(json.loads((store_home.secrets / "store.json").read_text())["sts"])
    header, payload, _ = (scoped.session_token or "").split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))

    def signed(expires: int) -> Credentials:
        text = base64.urlsafe_b64encode(json.dumps(claims | {"exp": expires}).encode()).rstrip(b"=").decode()
        body = f"{header}.{text}"
        signature = base64.urlsafe_b64encode(hmac.digest(key, body.encode(), "sha256")).rstrip(b"=").decode()
        return scoped.model_copy(update={"session_token": f"{body}.{signature}"})

    assert ObjectClient(signed(claims["exp"])).get(ObjectUri(bucket, "in/x")) == b"data"
    with pytest.raises(Forbidden):
        ObjectClient(signed(claims["iat"])).get(ObjectUri(bucket, "in/x"))


def test_no_access_reaches_nothing(agent_store: Credentials, client: ObjectClient, bucket: str) -> None:
    client.put(ObjectUri(bucket, "x"), b"x")
    nothing = sts.mint(agent_store, Access(), 900, "nothing")
    with pytest.raises(Forbidden):
        ObjectClient(nothing).get(ObjectUri(bucket, "x"))


def test_too_many_prefixes_are_told(agent_store: Credentials) -> None:
    with pytest.raises(Invalid, match="prefixes"):
        sts.mint(agent_store, Access(read=tuple(f"s3://data/{i:040d}/" for i in range(60))), 900, "many")


def test_renewed_credentials_are_used(store: Credentials, bucket: str) -> None:
    current = [store.model_copy(update={"access_key_id": "unknown"})]
    client = ObjectClient(lambda: current[0])
    with pytest.raises(Forbidden):
        client.put(ObjectUri(bucket, "x"), b"")
    current[0] = store
    client.put(ObjectUri(bucket, "x"), b"")


def test_an_endpoint_that_moved_is_followed(store: Credentials, bucket: str) -> None:
    now = store.model_copy(update={"endpoint": "http://127.0.0.1:9"})
    client = ObjectClient(lambda: now, deadline=0.1)
    with pytest.raises(Unavailable):
        client.exists(ObjectUri(bucket, "x"))
    now = store
    assert not client.exists(ObjectUri(bucket, "x"))


def _arguments(credentials: Credentials) -> dict[str, object]:
    return {
        "endpoint_url": credentials.endpoint,
        "region_name": credentials.region,
        "aws_access_key_id": credentials.access_key_id,
        "aws_secret_access_key": credentials.secret_access_key,
        "aws_session_token": credentials.session_token,
        "config": Config(s3={"addressing_style": "path"}, retries={"max_attempts": 1}),
    }


def _boto(credentials: Credentials):  # type: ignore[no-untyped-def]
    return boto3.client("s3", **_arguments(credentials))
