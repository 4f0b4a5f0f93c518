"""What a source folder leaves out: the rules of ``.gitignore`` and ``.mwignore``, as git reads them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

ALWAYS = (".git", ".hg", ".svn", ".venv", "venv", "__pycache__", "*.pyc", ".mypy_cache", ".ruff_cache", ".pytest_cache",
          ".ipynb_checkpoints", "node_modules", ".DS_Store")  # fmt: skip


@dataclass(frozen=True)
class Rule:
    pattern: re.Pattern[str]
    negated: bool
    directory_only: bool


def parse(lines: Iterable[str], base: str = "") -> list[Rule]:
    """Rules of one ignore file; ``base`` is its folder's path below the root, with a trailing slash, or empty."""
    return [rule for rule in (_rule(line, base) for line in lines) if rule is not None]


def ignored(path: str, is_directory: bool, rules: Iterable[Rule]) -> bool:
    """Whether the last rule that matches ``path`` (with ``/``, relative to the root) leaves it out."""
    verdict = False
    for rule in rules:
        if (is_directory or not rule.directory_only) and rule.pattern.fullmatch(path):
            verdict = not rule.negated
    return verdict


def _rule(line: str, base: str) -> Rule | None:
    text = line.rstrip("\n").rstrip("\r")
    text = re.sub(r"(?<!\\) +$", "", text)
    if not text or text.startswith("#"):
        return None
    negated = text.startswith("!")
    text = text[1:] if negated else text
    text = text[1:] if text.startswith(("\\#", "\\!")) else text
    directory_only = text.endswith("/")
    text = text.rstrip("/")
    anchored = "/" in text
    text = text.removeprefix("/")
    if not text:
        return None
    prefix = re.escape(base) + ("" if anchored else "(?:.*/)?")
    return Rule(re.compile(prefix + _regex(text), re.DOTALL), negated, directory_only)


def _regex(glob: str) -> str:
    """git's globs: ``*`` and ``?`` stay inside a name, ``**`` crosses folders."""
    found, at = "", 0
    while at < len(glob):
        if glob.startswith("**/", at):
            found, at = found + "(?:.*/)?", at + 3
        elif glob.startswith("**", at):
            found, at = found + ".*", at + 2
        elif glob[at] == "*":
            found, at = found + "[^/]*", at + 1
        elif glob[at] == "?":
            found, at = found + "[^/]", at + 1
        elif glob[at] == "[" and "]" in glob[at + 2 :]:
            end = glob.index("]", at + 2)
            inside = glob[at + 1 : end].replace("\\", "\\\\")
            inside = "^" + inside[1:] if inside.startswith("!") else inside
            found, at = found + f"[{inside}]", end + 1
        elif glob[at] == "\\" and at + 1 < len(glob):
            found, at = found + re.escape(glob[at + 1]), at + 2
        else:
            found, at = found + re.escape(glob[at]), at + 1
    return found
