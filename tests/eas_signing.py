"""Requests signed as the cloud's prediction clients sign them."""

from __future__ import annotations

import base64
import hashlib
import hmac
from email.utils import formatdate


def signed(
    token: str,
    body: bytes,
    *,
    at: float,
    path: str = "/api/predict/digits",
    method: str = "POST",
    kind: str = "application/octet-stream",
) -> dict[str, str]:
    """The headers of one request; ``at`` is Unix time."""
    md5, date = hashlib.md5(body, usedforsecurity=False).hexdigest(), formatdate(at, usegmt=True)
    text = f"{method}\n{md5}\n{kind}\n{date}\n{path}"
    signature = base64.b64encode(hmac.digest(token.encode(), text.encode(), "sha1")).decode()
    return {"Content-MD5": md5, "Date": date, "Content-Type": kind, "Authorization": f"EAS {signature}"}
