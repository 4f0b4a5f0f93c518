r"""Lines that are written again and again, as progress bars do with ``\r``: shown as their last state. Pure."""

from __future__ import annotations

_LONGEST = 64 * 1024  # bytes of one state; what is more is cut off


class Rewrites:
    r"""A filter of the bytes of a log. What holds no ``\r`` passes as it is, and at once.

    Of a line that is rewritten the last state is let through when the line ends and, with ``period``, the latest one as
    a line of its own once in so many seconds.
    """

    def __init__(self, period: float | None = None) -> None:
        self._period = period
        self._rewriting = False
        self._state = b""  # the latest one that is whole and not blank
        self._tail = b""  # what came after the last \r
        self._told = b""
        self._told_at: float | None = None
        self._open = False  # the last line that was let through has no end yet
        self._held = b""  # a \r at the end of a piece: with a \n after it, it is the end of a line

    def feed(self, data: bytes, now: float) -> bytes:
        """What of ``data`` is shown, at ``now`` (seconds of any clock)."""
        data, self._held = self._held + data, b""
        if data.endswith(b"\r"):
            data, self._held = data[:-1], b"\r"
        shown = bytearray()
        *lines, rest = data.replace(b"\r\n", b"\n").split(b"\n")
        for line in lines:
            self._take(line, shown)
            self._end_line(shown)
        self._take(rest, shown)
        if self._period is not None and self._rewriting:
            self._tell(self._period, now, shown)
        return bytes(shown)

    def end(self) -> bytes:
        """What is held back, at the end of the log."""
        shown = bytearray()
        if self._rewriting:
            self._end_line(shown)
        return bytes(shown)

    def _take(self, text: bytes, shown: bytearray) -> None:
        """Some bytes of a line, without its end."""
        first, *others = text.split(b"\r")
        if not self._rewriting:
            if not others:
                shown += text
                self._open = self._open or bool(text)
                return
            self._rewriting = True
            if self._open:  # its beginning was shown before anybody could know
                shown += first
                first = b""
        self._tail = (self._tail + first)[:_LONGEST]
        for piece in others:
            if self._tail.strip():
                self._state = self._tail
            self._tail = piece[:_LONGEST]

    def _end_line(self, shown: bytearray) -> None:
        if self._rewriting:
            last = self._tail if self._tail.strip() else self._state
            if last not in (b"", self._told):
                self._say(last, shown)
            elif self._open:
                shown += b"\n"
        else:
            shown += b"\n"
        self._rewriting = self._open = False
        self._state = self._tail = self._told = b""

    def _tell(self, period: float, now: float, shown: bytearray) -> None:
        """The latest state, when it is another one and time."""
        due = self._told_at is None or now - self._told_at >= period
        if due and self._state not in (b"", self._told):
            self._told, self._told_at = self._state, now
            self._say(self._state, shown)

    def _say(self, line: bytes, shown: bytearray) -> None:
        shown += (b"\n" if self._open else b"") + line + b"\n"
        self._open = False
