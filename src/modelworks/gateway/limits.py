"""Every bound of the public door that is not a service's own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes in bytes, times in seconds. Tests make small ones; the platform runs with these."""

    target: int = 8 * 1024
    head: int = 32 * 1024
    headers: int = 128
    # What a client may send ahead of a replica that does not take it (yet).
    buffer: int = 64 * 1024
    # A body of such a length comes in whole before its request gets a replica's place, while there is memory for it.
    gathered: int = 1024 * 1024
    # What the requests that wait for a replica may hold of memory together; with half of it, no more is read of them.
    waiting: int = 24 * 1024 * 1024
    # A refused request's body up to this is read and dropped, so that its connection can be kept.
    discard: int = 256 * 1024
    api_body: int = 64 * 1024 * 1024
    api_concurrency: int = 1024
    connections: int = 16 * 1024

    head_timeout: float = 10.0
    idle_timeout: float = 75.0
    # Neither side may leave the other waiting in the middle of a body for longer.
    stall_timeout: float = 30.0
    # Bytes a second that a body has to bring over any such time, until it is answered: a replica holds a place for it.
    body_rate: float = 1024.0
    connect_timeout: float = 5.0
    # After an answer that ends the connection: how long the client's remaining bytes are still read and dropped.
    linger: float = 2.0
    # How long a refusal waits for the routes to be read once more.
    routes_wait: float = 0.75
    drain: float = 10.0
    # The same while somebody stands by who has another process take its place: streams may come to their end.
    drain_replaced: float = 300.0
    # A draining process keeps a silent connection this long: its next request is then answered, not cut off.
    drain_idle: float = 1.0
    # A replica closes its idle connections when it likes; older ones are not tried, younger ones are looked at first.
    upstream_idle: float = 15.0
    upstream_trusted: float = 0.2
    sweep: float = 0.25
    # A sweep that is late by more than this was held up with everything here: no replica's silence can be told from it.
    asleep: float = 1.0
