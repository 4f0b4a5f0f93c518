"""Where the platform is: what was said, the environment, this home's ``client.json``, what ``mw login`` keeps."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from modelworks.home import Home
from modelworks.kernel.errors import FieldError, Invalid, PlatformUnreachable
from modelworks.sdk.client import Client
from modelworks.sdk.http import UP_HINT


@dataclass(frozen=True)
class Context:
    """``source`` says, for people, where this came from."""

    url: str
    api_key: str | None
    source: str


def login_file() -> Path:
    """``~/.config/modelworks/context.json``, or below ``$XDG_CONFIG_HOME``."""
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "modelworks" / "context.json"


def find(url: str | None = None, api_key: str | None = None) -> Context:
    """The platform to talk to. Raises PlatformUnreachable when none is known."""
    url = url or os.environ.get("MW_API")
    api_key = api_key or os.environ.get("MW_API_KEY") or os.environ.get("MW_TOKEN")
    if url:
        return Context(check_url(url), api_key, "the arguments or MW_API")
    files = [login_file(), Home.default().client]
    if os.environ.get("MW_HOME"):  # who names a home means that home
        files.reverse()
    for path in files:
        context = _read(path)
        if context is not None:
            return Context(context.url, api_key or context.api_key, context.source)
    raise PlatformUnreachable(f"no platform is known here: {Home.default().client} does not exist", remedy=UP_HINT)


def connect(url: str | None = None, api_key: str | None = None, workspace: str = "default") -> Client:
    context = find(url, api_key)
    return Client(context.url, context.api_key, workspace=workspace)


def save_login(url: str, api_key: str | None) -> Path:
    """Remember a platform for this user; the file is readable by nobody else."""
    path = login_file()
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"url": check_url(url), "api_key": api_key}, file)
    temporary.replace(path)
    return path


def forget_login() -> bool:
    """Forget it; False when there was nothing to forget."""
    path = login_file()
    existed = path.exists()
    path.unlink(missing_ok=True)
    return existed


def check_url(url: str) -> str:
    if not url.startswith(("http://", "https://")) or len(url.split("://", 1)[1].strip("/")) == 0:
        raise Invalid(f"not the address of a platform: {url!r}", fields=(FieldError("url", "write http://host:port"),))
    return url.rstrip("/")


def _read(path: Path) -> Context | None:
    try:
        data = json.loads(path.read_text())
        return Context(check_url(str(data["url"])), data.get("api_key"), str(path))
    except FileNotFoundError:
        return None
    except NotADirectoryError as error:
        raise PlatformUnreachable(
            f"{path.parent} is not a directory", remedy="set MW_HOME to the directory of a platform"
        ) from error
    except OSError as error:
        raise PlatformUnreachable(
            f"{path} cannot be read: {error.strerror}",
            remedy="run as the user who ran `mw up`, or `mw login URL --key KEY`",
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(
            f"{path} is not a valid context: {error}", remedy=f"remove {path}, then `mw up` or `mw login`"
        ) from error
