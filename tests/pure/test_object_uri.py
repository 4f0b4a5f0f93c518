"""Object URIs, and the policies made of them."""

from __future__ import annotations

import pytest

from modelworks.kernel.run import Access
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.sts import policy
from modelworks.objectstore.uri import ObjectUri


@pytest.mark.parametrize(
    ("text", "bucket", "key"),
    [
        ("s3://data/a/b.csv", "data", "a/b.csv"),
        ("s3://data", "data", ""),
        ("s3://data/", "data", ""),
        ("oss://data/folder/", "data", "folder/"),
        ("oss://data.oss-cn-hangzhou.aliyuncs.com/k", "data", "k"),
        ("oss://data.oss-cn-hangzhou-internal.aliyuncs.com/k", "data", "k"),
        ("S3://data//k", "data", "k"),
        ("s3://data/a key/ü", "data", "a key/ü"),
    ],
)
def test_parse(text: str, bucket: str, key: str) -> None:
    assert ObjectUri.parse(text) == ObjectUri(bucket, key)


@pytest.mark.parametrize("text", ["", "data/a", "http://data/a", "s3://", "s3://Data/a", "s3://x/a", "s3://data/../b"])
def test_what_is_not_an_object_uri_is_told(text: str) -> None:
    with pytest.raises(ValueError, match=r"object URI|bucket name|object key"):
        ObjectUri.parse(text)


def test_text_and_parts() -> None:
    folder = ObjectUri.parse("oss://data/models")
    assert str(folder) == "s3://data/models"
    assert str(folder / "a.onnx") == "s3://data/models/a.onnx"
    assert str(ObjectUri("data") / "x") == "s3://data/x"
    assert folder.folder.is_folder
    assert not folder.is_folder
    assert (folder / "v1/").name == "v1"


def test_a_folder_is_not_its_neighbours() -> None:
    statements = policy(Access(read=("s3://data/in/",), write=("s3://data/out",)))["Statement"]
    assert statements[0]["Resource"] == [
        "arn:aws:s3:::data/in/*",
        "arn:aws:s3:::data/out",
        "arn:aws:s3:::data/out/*",
    ]
    assert statements[1]["Resource"] == ["arn:aws:s3:::data/out", "arn:aws:s3:::data/out/*"]
    assert statements[2]["Condition"] == {"StringLike": {"s3:prefix": ["in/*", "out", "out/*"]}}


def test_wildcards_in_a_key_do_not_widen_it() -> None:
    assert policy(Access(read=("s3://data/*/",)))["Statement"][0]["Resource"] == ["arn:aws:s3:::data/?/*"]


def test_no_access_is_a_denial() -> None:
    assert [s["Effect"] for s in policy(Access())["Statement"]] == ["Deny"]


def test_credentials_do_not_show_their_secrets() -> None:
    credentials = Credentials(
        endpoint="http://x", access_key_id="id", secret_access_key="hidden", session_token="concealed"
    )
    assert "hidden" not in repr(credentials)
    assert "concealed" not in repr(credentials)
    assert credentials.variables()["AWS_SESSION_TOKEN"] == "concealed"
    assert credentials.variables()["AWS_ENDPOINT_URL"] == "http://x"
