"""One signed call to a store's own API, with its answers mapped to our errors."""

from __future__ import annotations

import functools
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode
from xml.etree import ElementTree

from modelworks.kernel.errors import Conflict, Forbidden, ModelworksError, NotFound, Unavailable
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.signing import canonical_query, signed_headers

if TYPE_CHECKING:
    import httpx

_CLASSES: dict[str, type[ModelworksError]] = {
    "NoSuchBucket": NotFound,
    "NoSuchKey": NotFound,
    "BucketNotEmpty": Conflict,
    "BucketAlreadyExists": Conflict,
    "OperationAborted": Conflict,
}


class StoreRefused(Exception):
    """The store's error answer: its status and S3 code."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.status, self.code, self.message = status, code, message


def call(
    credentials: Credentials,
    method: str,
    path: str = "/",
    *,
    query: dict[str, str] | None = None,
    form: dict[str, str] | None = None,
    data: bytes = b"",
    headers: Mapping[str, str] | None = None,
    service: str = "s3",
    timeout: float = 10.0,
) -> ElementTree.Element | None:
    """The XML answer, None when it is empty. ``path`` is not quoted, and ``headers`` are signed too.

    Raises StoreRefused, or Unavailable when the store cannot be reached.
    """
    # Here, since it takes 7 MiB: an agent without runs asks the store for nothing.
    import httpx  # noqa: PLC0415

    url = credentials.endpoint.rstrip("/") + quote(path, safe="/~")
    body = urlencode(form).encode() if form else data
    now = datetime.now(UTC)
    signed = signed_headers(credentials, method, url, body, service=service, now=now, query=query, extra=headers)
    if form:
        signed["content-type"] = "application/x-www-form-urlencoded"
    target = f"{url}?{canonical_query(query)}" if query else url
    try:
        answer = httpx.request(method, target, content=body, headers=signed, timeout=timeout, verify=_trust())
    except httpx.HTTPError as error:
        raise unreachable(credentials, str(error)) from error
    if answer.status_code >= 400:
        raise _refusal(answer)
    return ElementTree.fromstring(answer.content) if answer.content.strip() else None


def explain(refused: StoreRefused, what: str) -> ModelworksError:
    """Our error for a refusal about ``what``, such as ``s3://bucket/key``."""
    if refused.code in _CLASSES:
        return _CLASSES[refused.code](f"{what}: {refused.message or refused.code}")
    if refused.status in (401, 403):
        return Forbidden(f"the object store refused access to {what} ({refused.code})")
    if refused.status == 404:
        return NotFound(f"{what} does not exist")
    if refused.status >= 500:
        return Unavailable(f"the object store failed on {what}: {refused}", retry_after=1.0)
    return ModelworksError(f"the object store refused {what}: {refused}")


def unreachable(credentials: Credentials, why: str) -> Unavailable:
    """The error for a store that does not answer at all."""
    return Unavailable(
        f"the object store at {credentials.endpoint} cannot be reached ({why})",
        remedy="see `mw status`; it answers again when the store has restarted",
        retry_after=1.0,
    )


def text_of(element: ElementTree.Element | None, name: str) -> str | None:
    """The text of the first descendant called ``name`` in any namespace."""
    found = None if element is None else element.find(f".//{{*}}{name}")
    return None if found is None else found.text


@functools.cache
def _trust() -> ssl.SSLContext:
    """The certificates trusted, loaded once: that takes 40 ms of CPU time, ten times as long as a call."""
    import httpx  # noqa: PLC0415

    return httpx.create_ssl_context()


def _refusal(answer: httpx.Response) -> StoreRefused:
    try:
        document = ElementTree.fromstring(answer.content)
    except ElementTree.ParseError:
        return StoreRefused(answer.status_code, f"HTTP {answer.status_code}", answer.text[:200])
    code = text_of(document, "Code") or (document.text if document.tag == "Code" else None)
    return StoreRefused(answer.status_code, code or f"HTTP {answer.status_code}", text_of(document, "Message") or "")
