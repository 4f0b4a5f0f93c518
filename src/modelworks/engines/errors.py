"""What a person can do something about: told in one line, without a traceback."""

from __future__ import annotations


class CannotStart(Exception):
    """The replica ends at once; the text says what is missing and what to do."""
