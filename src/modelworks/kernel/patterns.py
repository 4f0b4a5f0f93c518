"""Regular expressions that others wrote. RE2 matches in a time that grows with the line alone: none can hang us."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

_MOST_MEMORY = 1 << 20  # bytes of a compiled expression, and of what is remembered while it matches
_TOLD = ("invalid perl operator: (?=", "invalid perl operator: (?!", "invalid perl operator: (?<")
_REFERENCE = re.compile(r"invalid escape sequence: \\+[1-9]")


def compile_pattern(text: str) -> Any:
    """With ``search(line)``, as ``re`` has it. Raises ValueError that says what RE2 does not know.

    The base wheel has no RE2: there a job that runs without the platform is only checked, by ``re``.
    """
    if importlib.util.find_spec("re2") is None:
        try:
            return re.compile(text)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
    import re2  # noqa: PLC0415

    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MOST_MEMORY
    try:
        return re2.compile(text, options)
    except re2.error as error:
        said = error.args[0] if error.args else ""
        why = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    if why.startswith(_TOLD) or _REFERENCE.match(why):
        why += "; look-ahead, look-behind and back-references cannot be matched in bounded time (RE2 syntax)"
    raise ValueError(f"not a regular expression: {why}")
