"""One signed call to a store."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from modelworks.objectstore import request
from modelworks.objectstore.credentials import Credentials


def test_certificates_are_loaded_once_for_all_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    monkeypatch.setattr(httpx, "create_ssl_context", lambda: loaded.append(object()) or loaded[-1])
    used: list[Any] = []

    def answer(method: str, url: str, **options: Any) -> httpx.Response:
        used.append(options["verify"])
        return httpx.Response(200)

    monkeypatch.setattr(httpx, "request", answer)
    request._trust.cache_clear()
    try:
        credentials = Credentials(endpoint="https://store", access_key_id="a", secret_access_key="s")
        for _ in range(3):
            assert request.call(credentials, "PUT", "/bucket") is None
    finally:
        request._trust.cache_clear()
    assert used == loaded * 3
    assert len(loaded) == 1
