"""Logs of the platform's own processes: JSON lines on stderr, which the supervisor has pointed at a log file.

Standard library only, since agent and gateway are to stay small; ``structured`` adds structlog for the controller.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime

_PLAIN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime"}
_OURS = "modelworks"


class JsonLines(logging.Formatter):
    """One object a line: ``at`` (ISO 8601, UTC), ``level``, ``process``, ``logger``, ``event``, the extra fields."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "process": self._process,
            "logger": record.name,
            "event": record.getMessage(),
        }
        line |= {key: value for key, value in record.__dict__.items() if key not in _PLAIN}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


def configure(process: str) -> None:
    """Our own loggers from ``MW_LOG_LEVEL`` (info) on, other libraries' from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    wanted = os.environ.get("MW_LOG_LEVEL", "info").upper()
    logging.getLogger(_OURS).setLevel(logging.getLevelNamesMapping().get(wanted, logging.INFO))
