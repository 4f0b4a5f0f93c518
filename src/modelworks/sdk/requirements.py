"""requirements.txt as pip reads it: comments, continued lines, and files that name other files."""

from __future__ import annotations

import re
from pathlib import Path

from modelworks.kernel.errors import Invalid

_INCLUDE = re.compile(r"(?:-r|--requirement)(?:\s+|=|(?<=-r))(.+)")
_MOST_FILES = 50


def read_requirements(path: Path) -> list[str]:
    """Its lines, one requirement each; those of ``-r other.txt`` are in its place. Raises Invalid."""
    lines: list[str] = []
    _read(path, lines, [])
    return list(dict.fromkeys(lines))


def _read(path: Path, lines: list[str], above: list[Path]) -> None:
    if path in above or len(above) >= _MOST_FILES:
        raise Invalid(f"{path} names itself: {' → '.join(str(p) for p in [*above, path])}")
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise Invalid(f"{path} cannot be read: {reason}") from None
    # A comment ends where its line does, even if that looks continued.
    uncommented = (re.sub(r"(^|\s)#.*$", "", line) for line in text.splitlines())
    for line in re.sub(r"\\\n", " ", "\n".join(uncommented)).splitlines():
        words = " ".join(line.split())
        other = _INCLUDE.fullmatch(words)
        if other:
            _read(path.parent / other[1].strip("\"'"), lines, [*above, path])
        elif words:
            lines.append(words)
