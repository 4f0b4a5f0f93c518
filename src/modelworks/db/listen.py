"""Wake-ups by LISTEN/NOTIFY. They only shorten the wait: whoever listens polls as well."""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence

import psycopg
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

RESOURCES = "mw_resources"  # payload: the uid that should be looked at now
CHANGES = "mw_changes"  # payload: the uid whose document changed
CLAIMS = "mw_claims"
ROUTES = "mw_routes"
EVENTS = "mw_events"
CHANNELS = (RESOURCES, CHANGES, CLAIMS, ROUTES, EVENTS)

Callback = Callable[[str], None]

_log = logging.getLogger(__name__)
_NOTIFY = text("SELECT pg_notify(:channel, :payload)")
_NOTIFY_EACH = text("SELECT pg_notify(:channel, payload) FROM unnest(CAST(:payloads AS text[])) AS payload")
_LONGEST_PAUSE = 5.0
# A connection that is silent for so many seconds is asked whether it still lives.
_PATIENCE = 60.0


class Listener(threading.Thread):
    """One connection that listens to every channel and calls whoever subscribed, from its own thread.

    A callback gets the payload; after every (re)connection it gets ``""``: something may have been missed, look at all.
    Callbacks must be quick; what one raises is logged, and the others are called all the same.
    """

    def __init__(self, url: str) -> None:
        super().__init__(name="listener", daemon=True)
        self._conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._subscribers: dict[str, list[Callback]] = defaultdict(list)
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._wake_up, self._woken_up = socket.socketpair()

    def subscribe(self, channel: str, callback: Callback) -> Callable[[], None]:
        """Call ``callback`` at every notification of ``channel``; returns what ends the subscription."""
        with self._lock:
            self._subscribers[channel].append(callback)

        def cancel() -> None:
            with self._lock:
                if callback in self._subscribers[channel]:
                    self._subscribers[channel].remove(callback)

        return cancel

    def stop(self) -> None:
        self._stopping.set()
        self._wake_up.send(b"x")

    def run(self) -> None:
        pause = 0.1
        while not self._stopping.is_set():
            try:
                with psycopg.connect(
                    self._conninfo, autocommit=True, connect_timeout=5, application_name="modelworks-listener"
                ) as connection:
                    for channel in CHANNELS:
                        connection.execute(f"LISTEN {channel}")
                    pause = 0.1
                    for channel in CHANNELS:
                        self._call(channel, "")
                    self._read(connection)
            except psycopg.Error as error:
                _log.warning("listener.disconnected", extra={"error": str(error).strip(), "retry_in": pause})
                self._stopping.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _read(self, connection: psycopg.Connection[object]) -> None:
        """Until :meth:`stop`; raises psycopg.Error when the connection is cut."""
        with selectors.DefaultSelector() as selector:
            selector.register(connection.fileno(), selectors.EVENT_READ)
            selector.register(self._woken_up, selectors.EVENT_READ)
            while not self._stopping.is_set():
                if not selector.select(_PATIENCE):
                    connection.execute("SELECT 1")
                for note in connection.notifies(timeout=0):
                    self._call(note.channel, note.payload)

    def _call(self, channel: str, payload: str) -> None:
        with self._lock:
            callbacks = tuple(self._subscribers[channel])
        for callback in callbacks:
            try:
                callback(payload)
            except Exception:
                _log.exception("listener.callback_failed", extra={"channel": channel})


def notify_each(connection: Connection, channel: str, payloads: Sequence[str]) -> None:
    """:func:`notify` for many at once, in one statement."""
    if payloads:
        connection.execute(_NOTIFY_EACH, {"channel": channel, "payloads": list(payloads)})


def notify(connection: Connection, channel: str, payload: str = "") -> None:
    """Wake the listeners of ``channel`` when the transaction commits; equal ones of a transaction are sent once."""
    connection.execute(_NOTIFY, {"channel": channel, "payload": payload})
