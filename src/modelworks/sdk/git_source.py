"""A Git repository as the source of a job: cloned here, and sent like a folder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote, urlsplit, urlunsplit

from modelworks.kernel.errors import FieldError, Invalid

_KNOWN = {"repo", "branch", "commit", "username", "password", "token"}


@contextmanager
def checkout(config: Mapping[str, str], folder: str | None) -> Iterator[Path]:
    """``folder`` of the repository ``config["repo"]``, at its ``branch`` or ``commit``, as long as the context lasts.

    Raises Invalid with git's own words, without the secrets.
    """
    if not config.get("repo") or set(config) - _KNOWN:
        said = f"git_config has a repo, and of {', '.join(sorted(_KNOWN - {'repo'}))} what is needed"
        raise Invalid(said, fields=(FieldError("git_config", said),))
    with TemporaryDirectory(prefix="mw-git-") as directory:
        target = Path(directory) / "source"
        branch = ["--branch", config["branch"]] if config.get("branch") else []
        depth = [] if config.get("commit") else ["--depth", "1"]
        _git(["clone", "--quiet", *depth, *branch, "--", _with_secret(config), str(target)], config)
        if config.get("commit"):
            _git(["-C", str(target), "checkout", "--quiet", "--detach", config["commit"]], config)
        found = (target / (folder or "")).resolve()
        if not found.is_relative_to(target.resolve()) or not found.exists():
            said = f"{config['repo']} has no {folder}"
            raise Invalid(said, fields=(FieldError("source_dir", said),))
        yield found


def _with_secret(config: Mapping[str, str]) -> str:
    parts = urlsplit(config["repo"])
    secret = config.get("token") or config.get("password")
    if not secret or parts.scheme != "https":
        return config["repo"]
    user = quote(config.get("username") or "git", safe="")
    return urlunsplit(parts._replace(netloc=f"{user}:{quote(secret, safe='')}@{parts.netloc.rpartition('@')[2]}"))


def _git(arguments: list[str], config: Mapping[str, str]) -> None:
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    try:
        done = subprocess.run(["git", *arguments], env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Invalid("git_config needs git, which is not installed here", remedy="install git") from None
    if done.returncode:
        words = done.stderr.strip() or f"exit code {done.returncode}"
        for name in ("token", "password"):
            if config.get(name):
                words = words.replace(quote(config[name], safe=""), "***").replace(config[name], "***")
        raise Invalid(f"{config['repo']} cannot be cloned: {words}", fields=(FieldError("git_config", words),))
