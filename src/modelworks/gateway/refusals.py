"""What a service answers when no replica does."""

from __future__ import annotations

from modelworks.gateway.problems import Problem
from modelworks.gateway.table import Route

_STARTING_RETRY = 2
_STOPPED_RETRY = 30


class Refusals:
    """Problems in the words of the service that they are about."""

    route: Route

    def unavailable(self) -> Problem | None:
        """Why nobody may enter now, if so. Who comes to a service that starts or is idle waits for its replicas."""
        route = self.route
        if route.state in ("failed", "stopped"):
            return self._unavailable(route.state, _STOPPED_RETRY)
        if not route.replicas and route.hold <= 0:
            return self.no_replicas()
        return None

    def no_replicas(self) -> Problem:
        """None came while the request waited for it."""
        state = "starting" if self.route.state == "ready" else self.route.state
        return self._unavailable(state, _STARTING_RETRY)

    def queue_full(self, queued: int, retry_after: int) -> Problem:
        """``queued``: how many wait at this gateway."""
        route = self.route
        busy = (
            f"{route.concurrency} requests at each of its {len(route.replicas)} replicas"
            if route.replicas
            else "no replica yet"
        )
        return self._limit(
            f"Service {route.service} has {busy} and {max(route.queue_size, queued)} waiting.",
            "Repeat the request later, or raise `replicas`, `concurrency` or `queue.size` of the service.",
            retry_after,
        )

    def too_late(self, retry_after: int) -> Problem:
        return self._limit(
            f"No replica of service {self.route.service} can answer the request in its time.",
            "Repeat the request later, give it more time, or raise `replicas`, `concurrency` or `queue.timeout`.",
            retry_after,
        )

    def too_many(self, retry_after: int) -> Problem:
        return self._limit(
            f"Service {self.route.service} takes {self.route.rate_limit:g} requests a second.",
            "Repeat the request later, or raise `rate_limit` of the service.",
            retry_after,
        )

    def too_much_waits(self, retry_after: int) -> Problem:
        return self._limit(
            "The requests that wait at the gateway hold as much memory as they may.",
            "Repeat the request later, or send large inputs by URI.",
            retry_after,
        )

    def unreachable(self) -> Problem:
        return Problem(
            503,
            "unavailable",
            f"No replica of service {self.route.service} accepts connections.",
            remedy=f"It is restarted by itself; `mw service log {self.route.service}` says more.",
            retry_after=1,
        )

    def too_large(self) -> Problem:
        return Problem(
            413,
            "too-large",
            f"The request's body is larger than {self.route.max_body} bytes.",
            remedy="Put large inputs into a bucket and send their address.",
            close=True,
        )

    def silent(self) -> Problem:
        return Problem(
            408,
            "timeout",
            f"Service {self.route.service} did not begin to answer within {self.route.keepalive:g} s.",
            remedy="Raise `keepalive` of the service, or make its answer shorter.",
        )

    def unwanted(self) -> Problem:
        return Problem(
            408,
            "timeout",
            f"Service {self.route.service} did not begin to answer in the request's own time.",
            remedy="Send a larger X-Mw-Timeout-Ms, or none.",
        )

    def broken(self, detail: str) -> Problem:
        return Problem(
            502,
            "upstream-failed",
            f"The replica failed: {detail}.",
            remedy=f"`mw service log {self.route.service}` says more, with --previous if it has begun again since.",
        )

    def _unavailable(self, state: str, retry_after: int) -> Problem:
        route = self.route
        return Problem(
            503,
            "unavailable",
            f"Service {route.service} is {state}" + (f": {route.message}" if route.message else "."),
            remedy=f"`mw service start {route.service}` starts it."
            if state == "stopped"
            else f"`mw service get {route.service}` and `mw service log {route.service}` say more.",
            retry_after=retry_after,
        )

    def _limit(self, detail: str, remedy: str, retry_after: int) -> Problem:
        return Problem(429, "limit-exceeded", detail, remedy=remedy, retry_after=retry_after)
