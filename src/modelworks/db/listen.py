"""Wake-ups by LISTEN/NOTIFY. They only shorten the wait: whoever listens polls as well."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable

import psycopg
import structlog
from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

RESOURCES = "mw_resources"  # payload: the uid that should be looked at now
CHANGES = "mw_changes"  # payload: the uid whose document changed
CLAIMS = "mw_claims"
ROUTES = "mw_routes"
EVENTS = "mw_events"
CHANNELS = (RESOURCES, CHANGES, CLAIMS, ROUTES, EVENTS)

Callback = Callable[[str], None]

_log = structlog.get_logger(__name__)
_NOTIFY = text("SELECT pg_notify(:channel, :payload)")
_LONGEST_PAUSE = 5.0
# A blocked read ends this often to see whether the thread should stop; the interval is not part of the latency.
_PATIENCE = 2.0


class Listener(threading.Thread):
    """One connection that listens to every channel and calls whoever subscribed, from its own thread.

    A callback gets the payload; after every (re)connection it gets ``""``: something may have been missed, look at all.
    Callbacks must be quick and may not raise.
    """

    def __init__(self, url: str) -> None:
        super().__init__(name="listener", daemon=True)
        self._conninfo = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
        self._subscribers: dict[str, list[Callback]] = defaultdict(list)
        self._lock = threading.Lock()
        self._stopping = threading.Event()

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
        """Ends within a few seconds; the thread is a daemon, so nobody has to wait for it."""
        self._stopping.set()

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
                _log.warning("listener.disconnected", error=str(error).strip(), retry_in=pause)
                self._stopping.wait(pause)
                pause = min(pause * 2, _LONGEST_PAUSE)

    def _read(self, connection: psycopg.Connection[object]) -> None:
        while not self._stopping.is_set():
            for note in connection.notifies(timeout=_PATIENCE):
                self._call(note.channel, note.payload)
                if self._stopping.is_set():
                    return

    def _call(self, channel: str, payload: str) -> None:
        with self._lock:
            callbacks = tuple(self._subscribers[channel])
        for callback in callbacks:
            callback(payload)


def notify(connection: Connection, channel: str, payload: str = "") -> None:
    """Wake the listeners of ``channel`` when the transaction commits; equal ones of a transaction are sent once."""
    connection.execute(_NOTIFY, {"channel": channel, "payload": payload})
