"""Heads that differ from the one before in the values of a few headers: a request's id, a trace, a date.

Two heads that the parser has read, with the same names and another value here and there, make a *pattern*: the bytes
that they share, and between them values that mean nothing to the gateway and pass as they are. A head that fits needs
no parser: each of its bytes was read before, or is a printable character of such a value.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from modelworks.gateway.heads import RequestHead
from modelworks.gateway.known import KnownRequest

_MOST_VALUES = 4
_PATTERNS = 4
# Making a pattern costs as much as some requests: a connection whose heads go on changing otherwise gets no more.
_TRIALS = 12
_VALUE = rb"([\x21-\x7e][\x20-\x7e]{0,511})"
_LENGTH = rb"(0|[1-9][0-9]{0,8})"
_GAP = b"\0"  # in no valid head

Router = Callable[[RequestHead], KnownRequest | None]


class UnlikeRequest:
    """A whole request whose head is put together only when somebody asks for it."""

    __slots__ = ("_pattern", "_values", "body", "digest", "length", "out", "service")

    def __init__(self, pattern: Pattern, values: tuple[bytes, ...], out: bytes, length: int, body: int) -> None:
        self.service = pattern.known.service
        self.digest = pattern.known.digest
        self.out = out
        self.length = length
        self.body = body
        self._pattern = pattern
        self._values = values

    @property
    def head(self) -> RequestHead:
        return filled(self._pattern.known.head, self._values)


class Pattern:
    """What heads with other values share: ``names`` of all lines, ``gaps`` the numbers of those that differ."""

    __slots__ = ("_digits", "_format", "_match", "_order", "gaps", "known", "names")

    def __init__(self, names: tuple[bytes, ...], gaps: frozenset[int], lines: list[bytes], known: KnownRequest) -> None:
        """``lines`` of the head, with a NUL for each value that differs and without the digits of its length;
        ``known``: what reading that gave."""
        self.names, self.gaps, self.known = names, gaps, known
        self._format = known.out.replace(b"%", b"%%").replace(_GAP, b"%b")
        self._digits = 0
        parts: list[bytes] = []
        order: list[int] = []
        for line in lines:
            part = re.escape(line).replace(re.escape(_GAP), _VALUE)
            if line.lower() == b"content-length: ":
                part += _LENGTH
                self._digits = len(order) + 1
                self._format += b"%b\r\n\r\n"
            elif _GAP in line:
                order.append(len(order) + 1 + (self._digits > 0))
            parts.append(part)
        self._order = (*order, self._digits) if self._digits else tuple(order)
        self._match = re.compile(rb"\r\n".join(parts) + rb"\r\n\r\n").match

    def find(self, data: bytes) -> UnlikeRequest | None:
        """``data`` as one whole request that fits."""
        match = self._match(data)
        if match is None:
            return None
        body = match.end()
        values: tuple[bytes, ...] = match.group(0, *self._order)[1:]
        length = int(values[-1]) if self._digits else 0
        if body + length != len(data):
            return None
        return UnlikeRequest(self, values, self._format % values, length, body)


class Patterns:
    """The patterns of one connection, learned from one plain request after another."""

    __slots__ = ("_found", "_lines", "_trials")

    def __init__(self) -> None:
        self._found: list[Pattern] = []
        self._lines: list[bytes] = []
        self._trials = 0

    def find(self, data: bytes) -> UnlikeRequest | None:
        """``data`` as one whole request that fits a pattern."""
        for pattern in self._found:
            if (found := pattern.find(data)) is not None:
                return found
        return None

    def learn(self, key: bytes, head: RequestHead, route: Router) -> None:
        """The parser has read a plain request; ``key`` is its head without the digits of its length. ``route`` says
        what is to be remembered of a head."""
        if self._trials >= _TRIALS:
            return
        before, self._lines = self._lines, key.split(b"\r\n")
        lines = self._lines
        if len(before) != len(lines) or before[0] != lines[0]:
            return
        names = tuple(_name(line) for line in lines)
        if names != tuple(_name(line) for line in before):
            return
        gaps = frozenset(i for i, line in enumerate(lines) if i and line != before[i])
        for pattern in self._found:
            if pattern.names == names and pattern.known.head.target == head.target:
                gaps |= pattern.gaps
        if 0 < len(gaps) <= _MOST_VALUES:
            self._trials += 1
            self._make(names, gaps, head, route)

    def _make(self, names: tuple[bytes, ...], gaps: frozenset[int], head: RequestHead, route: Router) -> None:
        lines = list(self._lines)
        parts = list(head.lines)
        passing = [name.lower() for name in parts[::4]]
        everywhere = [name.lower() for name in names]
        for gap in gaps:
            name = names[gap].lower()
            if passing.count(name) != 1 or everywhere.count(name) != 1:
                return  # it means something to the gateway
            at = passing.index(name) * 4 + 2
            if lines[gap] != names[gap] + b": " + parts[at]:
                return
            lines[gap], parts[at] = names[gap] + b": " + _GAP, _GAP
        known = route(_with(head, parts))
        if known is None or known.out.count(_GAP) != len(gaps):
            return
        self._found = [p for p in self._found if p.names != names or p.known.head.target != head.target]
        self._found = [Pattern(names, gaps, lines, known), *self._found][:_PATTERNS]


def filled(head: RequestHead, values: tuple[bytes, ...]) -> RequestHead:
    """``head`` with ``values`` in its gaps, in order; and with the length, if it has one, that is the last of them."""
    rest = iter(values)
    full = _with(head, [next(rest) if part == _GAP else part for part in head.lines])
    if head.length is not None:
        full.length = int(next(rest))
    return full


def _with(head: RequestHead, lines: list[bytes]) -> RequestHead:
    one = RequestHead(head.method, head.target, head.http11)
    for slot in RequestHead.__slots__:
        setattr(one, slot, getattr(head, slot))
    one.lines = lines
    return one


def _name(line: bytes) -> bytes:
    return line.partition(b":")[0]
