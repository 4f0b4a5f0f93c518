"""What every processor can do."""

from __future__ import annotations

from typing import Any, Protocol

from modelworks.server.messages import Answer, Request


class Processor(Protocol):
    """Made once, before the replica is ready; ``predict`` is called from several threads at once.

    Raises :class:`modelworks.server.problems.Problem` for what the caller did wrong; any other exception is the
    model's own failure.
    """

    @property
    def name(self) -> str: ...

    def predict(self, request: Request) -> Answer: ...

    def metadata(self) -> dict[str, Any]:
        """The model as the Open Inference Protocol shows it: ``name``, ``platform``, ``inputs``, ``outputs``."""
        ...

    def infer(self, body: bytes) -> Answer:
        """``POST /v2/models/<name>/infer`` with a JSON body."""
        ...
