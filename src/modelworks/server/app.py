"""What the server answers to which path."""

from __future__ import annotations

import sys
import traceback
from collections import Counter
from collections.abc import Callable

from modelworks.server.messages import Answer, Request
from modelworks.server.problems import Problem
from modelworks.server.processors.base import Processor
from modelworks.server.processors.tensors import dump_json
from modelworks.server.workers import Task, Workers

Reply = Callable[[Answer], None]


class App:
    """Routes requests: the small ones are answered on the loop, predictions on a thread."""

    def __init__(self, processor: Processor, workers: Workers) -> None:
        self.processor = processor
        self.workers = workers
        self.draining = False
        self.answered: Counter[int] = Counter()
        self.skipped = 0

    def handle(self, request: Request, reply: Reply) -> Task | None:
        """Answer by calling ``reply`` once, now or later; the task of a prediction can be cancelled."""

        def count(answer: Answer) -> None:
            self.answered[answer.status] += 1
            reply(answer)

        try:
            now = self._at_once(request)
            if now is not None:
                reply(now)
                return None
            if request.method not in ("POST", "PUT"):
                raise Problem(405, "method-not-allowed", f"send predictions as POST, not {request.method}")
            return self.workers.submit(self._work(request), lambda result: count(answer_of(result)))
        except Problem as problem:
            count(answer_of(problem))
            return None

    def _at_once(self, request: Request) -> Answer | None:
        """Health, metrics and the model's description; None for a prediction."""
        path = request.path
        if path in ("/health", "/v2/health/ready") and request.method in ("GET", "HEAD"):
            if self.draining:
                raise Problem(503, "unavailable", "the replica is draining", retry_after=1.0)
            return Answer(b'{"status":"ready"}')
        if request.method not in ("GET", "HEAD"):
            return None
        if path == "/metrics":
            return Answer(self.metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")
        if path == "/v2/health/live":
            return Answer(b'{"live":true}')
        if path == "/v2":
            return Answer(dump_json({"name": "modelworks", "extensions": []}))
        name, action = _model_path(path)
        if name is None:
            raise Problem(404, "not-found", f"nothing is at GET {path}; predictions are POSTs")
        if action == "ready":
            return Answer(dump_json({"name": name, "ready": not self.draining}))
        if action == "":
            return Answer(dump_json(self.processor.metadata() | {"name": name}))
        raise Problem(405, "method-not-allowed", f"{path} takes a POST")

    def _work(self, request: Request) -> Callable[[], Answer]:
        _, action = _model_path(request.path)
        if action == "infer":
            return lambda: self.processor.infer(request.body)
        return lambda: self.processor.predict(request)

    def metrics(self) -> bytes:
        """Prometheus' text format."""
        lines = ["# HELP mw_requests_total Predictions answered, by status.", "# TYPE mw_requests_total counter"]
        lines += [f'mw_requests_total{{status="{status}"}} {count}' for status, count in sorted(self.answered.items())]
        for name, text, value in (
            ("mw_requests_in_flight", "Predictions being computed.", self.workers.in_flight),
            ("mw_queue_depth", "Predictions that wait for a thread.", self.workers.queued),
        ):
            lines += [f"# HELP {name} {text}", f"# TYPE {name} gauge", f"{name} {value}"]
        return ("\n".join(lines) + "\n").encode()


def answer_of(result: Answer | BaseException) -> Answer:
    """An exception as problem JSON: its text for the caller, its traceback for the log."""
    if isinstance(result, Answer):
        return result
    if not isinstance(result, Problem):
        traceback.print_exception(result, file=sys.stderr)
        result = Problem(500, "model-failed", f"{type(result).__name__}: {result}")
    retry = result.retry_after
    headers = (("Retry-After", str(max(1, round(retry)))),) if retry is not None else ()
    return Answer(result.body(), result.status, "application/problem+json", headers)


def _model_path(path: str) -> tuple[str | None, str]:
    """``/v2/models/<name>[/<action>]`` → name and action; other paths have no name."""
    parts = path.strip("/").split("/")
    if len(parts) in (3, 4) and parts[:2] == ["v2", "models"]:
        return parts[2], parts[3] if len(parts) == 4 else ""
    return None, ""
