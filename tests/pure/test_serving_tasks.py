"""What may be written of an asynchronous service."""

from __future__ import annotations

import pytest

from modelworks.kernel.errors import Invalid
from modelworks.products.serving.spec import Tasks


@pytest.mark.parametrize("url", ["http://10.0.0.8:9000/done?from=here", "https://example.com", "http://[fd00::1]/x"])
def test_a_webhook_is_a_url(url: str) -> None:
    assert Tasks.parse({"webhook": url}, at="spec.tasks").webhook == url


@pytest.mark.parametrize(
    "url",
    [
        "example.com/done",
        "ftp://example.com/",
        "http://",
        "http://a:port/",
        "http://me:secret@a/",
        "http://ä/",
        "/done",
    ],
)
def test_what_is_none_is_refused_at_apply(url: str) -> None:
    with pytest.raises(Invalid) as caught:
        Tasks.parse({"webhook": url}, at="spec.tasks")
    assert [field.path for field in caught.value.fields] == ["spec.tasks.webhook"]
