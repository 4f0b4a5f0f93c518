"""Copies of large objects on the store's side, in parts: S3 copies no more than 5 GiB in one call."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Protocol
from urllib.parse import quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from modelworks.kernel.errors import Conflict, ModelworksError, Unavailable
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.request import StoreRefused, call, explain, text_of
from modelworks.objectstore.uri import ObjectUri

WHOLE = 1 << 30
"""Bytes up to which one call copies an object: far below S3's limit, so that no call lasts long."""
_PART = 256 << 20  # bytes of a part, or more where there would be too many
_MOST_PARTS = 10_000
_PARALLEL = 4
_TIMEOUT = 300.0  # seconds for the copy of a part


class Repeating(Protocol):
    """Makes a call again while the store does not answer."""

    def __call__(self, uri: ObjectUri, call: Callable[[Credentials], Any]) -> Any: ...


def copy(
    repeat: Repeating,
    source: ObjectUri,
    target: ObjectUri,
    *,
    size: int,
    etag: str,
    given_up: Callable[[], bool] = lambda: False,
) -> None:
    """``source``, of ``size`` bytes and that ``etag``, is ``target`` too, which appears when it is complete.

    Raises Conflict once it is ``given_up``, and what the store says; nothing is left of a copy that was not finished.
    """
    path = f"/{target.bucket}/{target.key}"

    def asked(
        method: str, query: dict[str, str], data: bytes = b"", headers: dict[str, str] | None = None
    ) -> ElementTree.Element | None:
        def once(credentials: Credentials) -> ElementTree.Element | None:
            try:
                answer = call(credentials, method, path, query=query, data=data, headers=headers, timeout=_TIMEOUT)
            except StoreRefused as refused:
                raise explain(refused, str(target)) from refused
            if answer is not None and answer.tag.rpartition("}")[2] == "Error":  # after it has said 200
                why = f"{text_of(answer, 'Code')}: {text_of(answer, 'Message')}"
                raise Unavailable(f"the object store failed on {target}: {why}", retry_after=1.0)
            return answer

        found: ElementTree.Element | None = repeat(target, once)
        return found

    upload = text_of(asked("POST", {"uploads": ""}), "UploadId")
    if not upload:
        raise ModelworksError(f"the object store began no upload of {target}")
    length = max(_PART, -(-size // _MOST_PARTS))
    origin = quote(f"{source.bucket}/{source.key}", safe="/~")

    def part(number: int) -> str:
        if given_up():
            raise Conflict(f"the copy to {target} was given up")
        first = (number - 1) * length
        answer = asked(
            "PUT",
            {"partNumber": str(number), "uploadId": upload},
            headers={
                "x-amz-copy-source": origin,
                "x-amz-copy-source-if-match": f'"{etag}"',
                "x-amz-copy-source-range": f"bytes={first}-{min(first + length, size) - 1}",
            },
        )
        return text_of(answer, "ETag") or ""

    try:
        with ThreadPoolExecutor(_PARALLEL) as pool:
            parts = [pool.submit(part, number) for number in range(1, -(-size // length) + 1)]
            try:
                etags = [one.result() for one in parts]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        listed = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(one)}</ETag></Part>"
            for number, one in enumerate(etags, start=1)
        )
        body = f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>"
        asked("POST", {"uploadId": upload}, body.encode())
    except BaseException:
        with suppress(ModelworksError):  # it was done after all, or the store is away: its own rules clear it up
            asked("DELETE", {"uploadId": upload})
        raise
