"""A Git repository as the source of a job: cloned here, and sent like a folder."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from modelworks.kernel.errors import FieldError, Invalid

_KNOWN = {"repo", "branch", "commit", "username", "password", "token"}
# Arguments are seen by everybody on this machine and an address is kept in the clone: git asks this for the secret.
_HELPER = (
    '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n" "$GIT_HELPER_USER" "$GIT_HELPER_SECRET"; }; f'
)


@contextmanager
def checkout(config: Mapping[str, str], folder: str | None) -> Iterator[Path]:
    """``folder`` of the repository ``config["repo"]``, at its ``branch`` or ``commit``, as long as the context lasts.

    Raises Invalid with git's own words, without the secrets.
    """
    if not config.get("repo") or set(config) - _KNOWN:
        said = f"git_config has a repo, and of {', '.join(sorted(_KNOWN - {'repo'}))} what is needed"
        raise Invalid(said, fields=(FieldError("git_config", said),))
    access = _access(config)
    with TemporaryDirectory(prefix="mw-git-") as directory:
        target = Path(directory) / "source"
        branch = ["--branch", config["branch"]] if config.get("branch") else []
        depth = [] if config.get("commit") else ["--depth", "1"]
        _git(["clone", "--quiet", *depth, *branch, "--", access.address, str(target)], access)
        if config.get("commit"):
            _git(["-C", str(target), "checkout", "--quiet", "--detach", config["commit"]], access)
        found = (target / (folder or "")).resolve()
        if not found.is_relative_to(target.resolve()) or not found.exists():
            said = f"{access.address} has no {folder}"
            raise Invalid(said, fields=(FieldError("source_dir", said),))
        yield found


@dataclass(frozen=True)
class _Access:
    """A repository's address without its secret, and whose that is; no ``secret``: none is needed."""

    address: str
    user: str = ""
    secret: str = field(default="", repr=False)


def _access(config: Mapping[str, str]) -> _Access:
    """A token is for https alone; what the address itself holds goes where the address says."""
    parts = urlsplit(config["repo"])
    given = config.get("token") or config.get("password") or ""
    secret = given if given and parts.scheme == "https" else unquote(parts.password or "")
    if not secret or parts.scheme not in ("http", "https"):
        return _Access(config["repo"])
    user = config.get("username") or unquote(parts.username or "") or "git"
    return _Access(urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])), user, secret)


def _git(arguments: list[str], access: _Access) -> None:
    env = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    if access.secret:
        parts = urlsplit(access.address)
        origin = f"{parts.scheme}://{parts.netloc}"
        arguments = ["-c", "credential.helper=", "-c", f"credential.{origin}.helper={_HELPER}", *arguments]
        env |= {"GIT_HELPER_USER": access.user, "GIT_HELPER_SECRET": access.secret}
    try:
        done = subprocess.run(["git", *arguments], env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Invalid("git_config needs git, which is not installed here", remedy="install git") from None
    if done.returncode:
        words = done.stderr.strip() or f"exit code {done.returncode}"
        if access.secret:
            words = words.replace(quote(access.secret, safe=""), "***").replace(access.secret, "***")
        raise Invalid(f"{access.address} cannot be cloned: {words}", fields=(FieldError("git_config", words),))
