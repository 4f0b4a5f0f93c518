"""AWS Signature Version 4 for the few calls that the transfer library lacks: buckets and STS."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import quote, unquote, urlsplit

from modelworks.objectstore.credentials import Credentials


def signed_headers(
    credentials: Credentials,
    method: str,
    url: str,
    body: bytes,
    *,
    service: str,
    now: datetime,
    query: dict[str, str] | None = None,
    extra: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The headers that sign this request, at the time ``now``; those of ``extra`` too. ``url`` is without its query."""
    parts = urlsplit(url)
    stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": parts.netloc, "x-amz-content-sha256": digest, "x-amz-date": stamp, **(extra or {})}
    if credentials.session_token is not None:
        headers["x-amz-security-token"] = credentials.session_token
    names = ";".join(sorted(headers))
    canonical = "\n".join(
        [
            method,
            quote(unquote(parts.path) or "/", safe="/~"),
            canonical_query(query or {}),
            *(f"{name}:{headers[name]}" for name in sorted(headers)),
            "",
            names,
            digest,
        ]
    )
    scope = f"{stamp[:8]}/{credentials.region}/{service}/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{credentials.secret_access_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    authorization = f"AWS4-HMAC-SHA256 Credential={credentials.access_key_id}/{scope}, "
    return headers | {"authorization": f"{authorization}SignedHeaders={names}, Signature={signature}"}


def canonical_query(query: dict[str, str]) -> str:
    """The query string as it is signed, and as it must be sent."""
    return "&".join(f"{quote(k, safe='~')}={quote(v, safe='~')}" for k, v in sorted(query.items()))
