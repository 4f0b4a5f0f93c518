"""What no route should have to think about: too large bodies, JSON that is not quite JSON, unstorable text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote_to_bytes

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modelworks.api.problems import problem_response
from modelworks.kernel.errors import FieldError, Invalid, ModelworksError, TooLarge
from modelworks.kernel.quantities import format_bytes

LARGEST_BODY = 4 * 1024**2
_DEEPEST = 64
_LARGEST_INTEGER = 2**63


class StrictRequests:
    """Refuses, before any route runs, what no route could use.

    Bodies over 4 MiB; JSON with a key twice, NaN, integers over 64 bits, NUL or half a surrogate pair, or more than 64
    levels; paths and queries with NUL or bytes that are not UTF-8.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            _check_target(scope)
            body = await _read(scope, receive)
            if body and _is_json(scope):
                check_json(body)
        except ModelworksError as error:
            await problem_response(error)(scope, receive, send)
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()  # the disconnect, which streams wait for
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)


def check_json(body: bytes) -> None:
    """Raises Invalid with the place of what is wrong."""
    try:
        value = json.loads(
            body.decode(),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_parse_int,
            parse_float=_parse_float,
        )
    except UnicodeDecodeError as error:
        raise Invalid(f"the body is not UTF-8: byte {error.start} cannot be decoded") from None
    except json.JSONDecodeError as error:
        raise Invalid(
            f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}",
            fields=(FieldError("", f"{error.msg} at line {error.lineno}, column {error.colno}"),),
        ) from None
    except RecursionError:
        raise Invalid(f"the body is nested more than {_DEEPEST} levels deep") from None
    for path, text in _texts(value):
        if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
            said = "text may not hold NUL or half of a surrogate pair"
            raise Invalid(said, fields=(FieldError(path, said),))


def _texts(root: Any) -> Iterator[tuple[str, str]]:
    """Every text, keys included, with its dotted path. Raises Invalid when nested too deep."""
    left: list[tuple[str, int, Any]] = [("", 0, root)]
    while left:
        path, depth, value = left.pop()
        if depth > _DEEPEST:
            raise Invalid(
                f"the body is nested more than {_DEEPEST} levels deep", fields=(FieldError(path, "too deep"),)
            )
        if isinstance(value, str):
            yield path, value
        elif isinstance(value, dict):
            for key, item in value.items():
                yield path, key
                left.append((f"{path}.{key}" if path else key, depth + 1, item))
        elif isinstance(value, list):
            left += [(f"{path}.{index}" if path else str(index), depth + 1, item) for index, item in enumerate(value)]


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Invalid(f"the key {key!r} is written twice in one object", fields=(FieldError(key, "written twice"),))
        found[key] = value
    return found


def _no_constant(name: str) -> Any:
    raise Invalid(f"the body is not JSON: {name} is not a number there")


def _parse_int(text: str) -> int:
    if len(text) > 20 or not -_LARGEST_INTEGER <= int(text) < _LARGEST_INTEGER:
        raise Invalid(f"the number {text[:40]} needs more than 64 bits")
    return int(text)


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise Invalid(f"the number {text[:40]} is too large")
    return value


def _check_target(scope: Scope) -> None:
    for noun, raw in (("path", scope.get("raw_path") or scope["path"].encode()), ("query", scope["query_string"])):
        plain = unquote_to_bytes(raw)
        try:
            text = plain.decode()
        except UnicodeDecodeError:
            raise Invalid(f"the {noun} is not UTF-8", fields=(FieldError(noun, "not UTF-8"),)) from None
        if "\0" in text:
            raise Invalid(f"the {noun} holds NUL", fields=(FieldError(noun, "holds NUL"),))


async def _read(scope: Scope, receive: Receive) -> bytes:
    said = f"the body is larger than {format_bytes(LARGEST_BODY)}"
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if declared.isdigit() and int(declared[:20]) > LARGEST_BODY:
        raise TooLarge(said, remedy="upload data to a bucket, and name its URI")
    chunks, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            break  # the client went away
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > LARGEST_BODY:
            raise TooLarge(said, remedy="upload data to a bucket, and name its URI")
        if not message.get("more_body"):
            break
    return b"".join(chunks)


def _is_json(scope: Scope) -> bool:
    kind = dict(scope["headers"]).get(b"content-type", b"application/json").split(b";")[0].strip().lower()
    return bool(kind == b"application/json" or kind.endswith(b"+json"))
