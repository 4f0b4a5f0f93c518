"""The digest of code is read off the archive's name only where the client named it by its content."""

from __future__ import annotations

import pytest

from modelworks.products.mounts import code_digest

DIGEST = "ab" * 32


def test_an_archive_named_by_its_content() -> None:
    assert code_digest(f"s3://mw-default/code/{DIGEST}.tar.gz") == f"sha256:{DIGEST}"


@pytest.mark.parametrize("uri", ["s3://b/code.tar.gz", f"s3://b/{DIGEST}.tar.gz", f"s3://b/code/{DIGEST[:-1]}.tar.gz"])
def test_others_have_none(uri: str) -> None:
    assert code_digest(uri) is None
