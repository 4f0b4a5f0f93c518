"""Where an object or a folder of objects is: ``s3://bucket/key``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_BUCKET = re.compile(r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")
_OSS_ENDPOINT = re.compile(r"^(?P<bucket>[a-z0-9-]+)\.oss-[a-z0-9-]+\.aliyuncs\.com$")


@dataclass(frozen=True, order=True)
class ObjectUri:
    """``key`` is without a leading slash; ``""`` is the bucket itself, and one that ends with ``/`` is a folder."""

    bucket: str
    key: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """``s3://b/k``, ``oss://b/k`` and ``oss://b.oss-cn-hangzhou.aliyuncs.com/k`` (the endpoint is dropped).

        Raises ValueError with what was expected.
        """
        scheme, separator, rest = text.strip().partition("://")
        if not separator or scheme.lower() not in ("s3", "oss"):
            raise ValueError(f"not an object URI: {text!r}; write s3://bucket/key or oss://bucket/key")
        bucket, _, key = rest.partition("/")
        endpoint = _OSS_ENDPOINT.match(bucket)
        if endpoint:
            bucket = endpoint["bucket"]
        if not _BUCKET.match(bucket):
            raise ValueError(
                f"not a bucket name: {bucket!r} in {text!r}; use 3-63 lower-case letters, digits, '-' and '.'"
            )
        key = key.lstrip("/")
        if any(part in (".", "..") for part in key.split("/")):
            raise ValueError(f"an object key cannot hold '.' or '..' as a part of its path: {text!r}")
        return cls(bucket, key)

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"

    def __truediv__(self, name: str) -> ObjectUri:
        """``name`` below this folder."""
        return ObjectUri(self.bucket, self.folder.key + name.lstrip("/"))

    @property
    def folder(self) -> ObjectUri:
        """The same place, written as a folder: the key ends with ``/`` unless it is the whole bucket."""
        if not self.key or self.key.endswith("/"):
            return self
        return ObjectUri(self.bucket, self.key + "/")

    @property
    def is_folder(self) -> bool:
        return not self.key or self.key.endswith("/")

    @property
    def name(self) -> str:
        """The last part of the key: ``c`` for both ``s3://b/a/c`` and ``s3://b/a/c/``."""
        return self.key.rstrip("/").rpartition("/")[2]
