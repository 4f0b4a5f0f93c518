"""``python -m modelworks.tuner``: JSON lines in, JSON lines out, until the input ends."""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any


def main() -> int:
    """The first line is ``{"url": …}`` of the database; it and every other is answered by one line."""
    # Whoever started us says when it is over, by closing the input: a terminal's Ctrl-C is not meant for us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    try:
        from modelworks.tuner.studies import Studies  # noqa: PLC0415 - tells what is missing
    except ImportError as error:
        _answer(answers, {"error": f"the platform's Python lacks {error.name}", "kind": "missing"})
        return 1
    studies: Studies | None = None
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        try:
            if studies is None:
                studies = Studies(str(request["url"]))
                _answer(answers, {})
            else:
                _answer(answers, studies.handle(request))
        except Exception as error:
            kind = "unavailable" if Studies.is_away(error) else "failed"
            _answer(answers, {"error": " ".join(f"{type(error).__name__}: {error}".split())[:2000], "kind": kind})
    return 0


def _answer(stream: Any, document: dict[str, Any]) -> None:
    stream.write(json.dumps(document) + "\n")
    stream.flush()


if __name__ == "__main__":
    sys.exit(main())
