"""Signals as events of the supervisor's loop."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

_NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


@contextlib.contextmanager
def caught(
    handler: Callable[[int, FrameType | None], object],
    watch: Callable[[int, Callable[[], object]], None],
) -> Iterator[None]:
    """``handler`` is called for SIGTERM, SIGINT and SIGHUP, and the loop wakes up for each, however they arrive."""
    reader, writer = socket.socketpair()
    reader.setblocking(False)
    writer.setblocking(False)
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    handlers = {number: signal.signal(number, handler) for number in _NUMBERS}
    watch(reader.fileno(), lambda: reader.recv(64))
    try:
        yield
    finally:
        signal.set_wakeup_fd(previous)
        for number, before in handlers.items():
            signal.signal(number, before)
        reader.close()
        writer.close()
