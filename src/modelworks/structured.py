"""structlog over the standard library's logging: the controller's loggers, in the same JSON lines."""

from __future__ import annotations

import structlog

from modelworks import logging


def configure(process: str) -> None:
    """Like :func:`modelworks.logging.configure`; what is bound to a structlog logger becomes fields of its lines."""
    logging.configure(process)
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.filter_by_level,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.render_to_log_kwargs,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
