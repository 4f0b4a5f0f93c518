"""Regular expressions that others wrote. RE2 matches in a time that grows with the line alone: none can hang us."""

from __future__ import annotations

import re
from typing import Any

import re2

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False
_OPTIONS.max_mem = 1 << 20  # bytes of a compiled expression, and of what is remembered while it matches
_TOLD = ("invalid perl operator: (?=", "invalid perl operator: (?!", "invalid perl operator: (?<")
_REFERENCE = re.compile(r"invalid escape sequence: \\+[1-9]")


def compile_pattern(text: str) -> Any:
    """With ``search(line)``, as ``re`` has it. Raises ValueError that says what RE2 does not know."""
    try:
        return re2.compile(text, _OPTIONS)
    except re2.error as error:
        said = error.args[0] if error.args else ""
        why = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    if why.startswith(_TOLD) or _REFERENCE.match(why):
        why += "; look-ahead, look-behind and back-references cannot be matched in bounded time (RE2 syntax)"
    raise ValueError(f"not a regular expression: {why}")
