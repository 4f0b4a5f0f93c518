"""An object store's objects, one at a time. Whole trees and large files are in ``transfer``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar

import obstore
from obstore import exceptions
from obstore.store import S3Store

from modelworks.kernel.errors import Forbidden, ModelworksError, NotFound, Unavailable
from modelworks.objectstore import multipart
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri

CredentialSource = Credentials | Callable[[], Credentials]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds between attempts while the store does not answer
_CONNECT, _LONGEST_CALL = 5.0, 600.0  # seconds
_PIECE = 8 << 20  # bytes of an object in memory at once
_MOST_PARTS = 9_000
_T = TypeVar("_T")


@dataclass(frozen=True)
class ObjectInfo:
    """``key`` is the whole key in the bucket; ``modified`` is in Unix seconds."""

    key: str
    size: int
    etag: str
    modified: float


class ObjectClient:
    """Calls raise NotFound (naming the URI), Forbidden, or Unavailable once the store was away for ``deadline`` s.

    ``credentials`` may be a function, which is asked before every call: it renews what is short-lived. One client may
    be used by many threads. A call may take ten minutes, since it may be a transfer, or ``timeout`` s.
    """

    def __init__(
        self, credentials: CredentialSource, *, deadline: float = 30.0, timeout: float = _LONGEST_CALL
    ) -> None:
        self._credentials = credentials
        self._deadline = deadline
        self._timeout = timeout
        self._stores: dict[str, tuple[Credentials, S3Store]] = {}

    @property
    def credentials(self) -> Credentials:
        """What is in use now."""
        return self._credentials() if callable(self._credentials) else self._credentials

    def list(self, uri: ObjectUri) -> Iterator[ObjectInfo]:
        """All objects below the folder ``uri``, in the order of their keys. A missing bucket is NotFound."""
        folder = uri.folder
        yield from self.attempt(uri, lambda store: list(_list(store, folder.key)))

    def first(self, uri: ObjectUri, count: int) -> tuple[ObjectInfo, ...]:
        """Up to ``count`` objects below the folder ``uri``; no more is listed than that takes."""
        folder = uri.folder
        return self.attempt(uri, lambda store: tuple(islice(_list(store, folder.key), count)))

    def is_empty(self, uri: ObjectUri) -> bool:
        """Whether there is no object below the folder ``uri``; asks for one page only. A missing bucket is NotFound."""
        folder = uri.folder
        return self.attempt(uri, lambda store: next(_list(store, folder.key), None) is None)

    def head(self, uri: ObjectUri) -> ObjectInfo:
        return _info(self.attempt(uri, lambda store: obstore.head(store, uri.key)))

    def exists(self, uri: ObjectUri) -> bool:
        """For an object. A store that cannot be asked raises."""
        try:
            self.head(uri)
        except NotFound:
            return False
        return True

    def get(self, uri: ObjectUri) -> bytes:
        return self.attempt(uri, lambda store: bytes(obstore.get(store, uri.key).bytes()))

    def get_range(self, uri: ObjectUri, start: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``start``; none at the end, or behind it."""

        def part(store: S3Store) -> bytes:
            try:
                return bytes(obstore.get_range(store, uri.key, start=start, length=length))
            except exceptions.GenericError as error:
                if "416 Range Not Satisfiable" in str(error) or "InvalidRange" in str(error):
                    return b""
                raise

        return self.attempt(uri, part)

    def put(self, uri: ObjectUri, data: bytes) -> None:
        """Replace the object in one step: a reader sees the old or the new one."""
        self.attempt(uri, lambda store: obstore.put(store, uri.key, data, use_multipart=False))

    def delete(self, uri: ObjectUri) -> None:
        """The object is gone; one that was not there is no error."""
        self.attempt(uri, lambda store: obstore.delete(store, uri.key), missing_ok=True)

    def delete_prefix(self, uri: ObjectUri) -> int:
        """Everything below the folder ``uri`` is gone; the number of objects there were."""
        keys = [item.key for item in self.list(uri)]
        for first in range(0, len(keys), 1000):
            batch = keys[first : first + 1000]
            self.attempt(uri, lambda store, batch=batch: obstore.delete(store, batch), missing_ok=True)  # type: ignore[misc]
        return len(keys)

    def copy(
        self,
        source: ObjectUri,
        target: ObjectUri,
        info: ObjectInfo | None = None,
        *,
        given_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """Within a bucket on the store's side; between two through this machine.

        ``info`` spares a look at the source, for who has it. A large object is copied in parts, and raises Conflict
        once it is ``given_up``.
        """
        if source.bucket != target.bucket:
            self.attempt(source, lambda store: _stream(store, source.key, self._store(target.bucket), target.key))
            return
        found = info or self.head(source)
        if found.size <= multipart.WHOLE:
            self.attempt(source, lambda store: obstore.copy(store, source.key, target.key))
        else:
            multipart.copy(self._repeat, source, target, size=found.size, etag=found.etag, given_up=given_up)

    def attempt(self, uri: ObjectUri, call: Callable[[S3Store], _T], *, missing_ok: bool = False) -> _T:
        """Make one call on the store of ``uri``'s bucket, again while the store does not answer."""

        def once(credentials: Credentials) -> _T:
            with mapped(uri, credentials.endpoint):
                return call(self._store(uri.bucket))

        return self._repeat(uri, once, missing_ok=missing_ok)

    def _repeat(self, uri: ObjectUri, call: Callable[[Credentials], _T], *, missing_ok: bool = False) -> _T:
        """Make one call about ``uri``, again while the store does not answer."""
        until = time.monotonic() + self._deadline
        pause = _FIRST_PAUSE
        while True:
            try:
                return call(self.credentials)
            except Unavailable:
                if time.monotonic() + pause > until:
                    raise
                time.sleep(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)
            except NotFound:
                if missing_ok:
                    return None  # type: ignore[return-value]
                raise

    def _store(self, bucket: str) -> S3Store:
        credentials = self.credentials
        known = self._stores.get(bucket)
        if known is None or known[0] != credentials:
            # Earlier credentials are of no use any more, nor is an endpoint that has moved.
            known = self._stores[bucket] = (credentials, _connect(credentials, bucket, self._timeout))
        return known[1]


def _connect(credentials: Credentials, bucket: str, timeout: float) -> S3Store:
    options: dict[str, Any] = {
        "endpoint": credentials.endpoint,
        "region": credentials.region,
        "access_key_id": credentials.access_key_id,
        "secret_access_key": credentials.secret_access_key,
        "virtual_hosted_style_request": False,
    }
    if credentials.session_token is not None:
        options["session_token"] = credentials.session_token
    return S3Store(
        bucket,
        **options,
        client_options={
            "allow_http": True,
            "timeout": timedelta(seconds=timeout),
            "connect_timeout": timedelta(seconds=min(timeout, _CONNECT)),
        },
        # The library's own repetitions would each have the time of one.
        retry_config={
            "max_retries": 2 if timeout > _CONNECT else 0,
            "retry_timeout": timedelta(seconds=min(timeout, 5.0)),
        },
    )


def _stream(source: S3Store, key: str, target: S3Store, as_key: str) -> None:
    """Copy an object of any size in pieces: a model may be larger than this machine's memory."""
    found = obstore.get(source, key)
    if found.meta["size"] <= _PIECE:
        obstore.put(target, as_key, found.bytes(), use_multipart=False)
    else:
        length = part_size(found.meta["size"], _PIECE)
        writer = obstore.open_writer(target, as_key, buffer_size=length, max_concurrency=2)
        for piece in found.stream(min_chunk_size=_PIECE):
            writer.write(piece)
        writer.close()  # only of what is whole: an upload that is not closed leaves no object


def part_size(size: int, least: int) -> int:
    """Bytes of each part in which an object of ``size`` is sent: S3 takes no more than 10,000, and a file may grow."""
    return max(least, -(-size // _MOST_PARTS))


def _list(store: S3Store, prefix: str) -> Iterator[ObjectInfo]:
    for page in obstore.list(store, prefix=prefix or None):
        for meta in page:
            yield _info(meta)


def _info(meta: Any) -> ObjectInfo:
    return ObjectInfo(meta["path"], meta["size"], (meta["e_tag"] or "").strip('"'), meta["last_modified"].timestamp())


@contextmanager
def mapped(uri: ObjectUri, endpoint: str) -> Iterator[None]:
    """The transfer library's errors as ours."""
    try:
        yield
    except (exceptions.NotFoundError, FileNotFoundError) as error:
        raise NotFound(f"{uri} does not exist") from error
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError, PermissionError) as error:
        raise Forbidden(f"the object store refused access to {uri}: these credentials do not reach it") from error
    except (exceptions.GenericError, exceptions.BaseError) as error:
        raise _generic(uri, endpoint, str(error)) from error


def _generic(uri: ObjectUri, endpoint: str, text: str) -> ModelworksError:
    """The library has one class for refusals, server errors and lost connections; its text tells them apart."""
    first = text.strip().splitlines()[0] if text.strip() else "no answer"
    for code in ("AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403 Forbidden"):
        if code in text:
            return Forbidden(f"the object store refused access to {uri} ({code})")
    if "NoSuchBucket" in text:
        return NotFound(f"the bucket of {uri} does not exist")
    if "Client error with status" in text:
        return ModelworksError(f"the object store refused {uri}: {first}")
    return Unavailable(
        f"the object store at {endpoint} did not answer for {uri}: {first}",
        remedy="see `mw status`; it answers again when the store has restarted",
        retry_after=1.0,
    )
