"""What can be told to be wrong with a platform on a Ray cluster before anything is started. Ray is not loaded."""

from __future__ import annotations

import importlib.util
import ipaddress
import subprocess
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed
from modelworks.settings import Settings
from modelworks.supervisor.preparation import SWEEP

_TOKEN = "make one with `ray get-auth-token --generate`, and start Ray on every node with it and RAY_AUTH_MODE=token"
_NAMES_OF_HERE = ("localhost", "localhost.localdomain", "ip6-localhost")


def check(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """Lines worth saying. Raises SetupFailed when the nodes of the cluster could not work with this platform."""
    if settings.ray_address is None:
        return []
    if importlib.util.find_spec("ray") is None:
        raise SetupFailed(
            "MW_RAY_ADDRESS is set, and ray is not installed", remedy="pip install 'modelworks[server,ray]'"
        )
    _check_reached("MW_ADVERTISE_URL", settings.advertise_url, "the platform", "http://HOST:8700")
    if settings.s3_endpoint is None or settings.advertise_s3_url is not None:
        _check_reached("MW_ADVERTISE_S3_URL", settings.advertise_s3_url, "the object store", "http://HOST:8733")
    else:
        _check_reached("MW_S3_ENDPOINT", settings.s3_endpoint, "the object store", "https://HOST")
    lines = []
    if not token_is_used(environ):
        if environ.get("RAY_AUTH_MODE", "").lower() != "disabled":
            raise SetupFailed(
                "the Ray cluster has no token: whoever reaches it runs programs on its nodes",
                remedy=f"{_TOKEN}; or set RAY_AUTH_MODE=disabled where only you can reach it",
            )
        lines.append("Ray's token authentication is disabled: whoever reaches the cluster runs programs on its nodes")
    if is_loopback(settings.host):
        lines.append(
            f"the doors listen on {settings.host} alone: nodes reach them only by what passes the advertised"
            " addresses on; otherwise set MW_HOST"
        )
    return lines


def leave_machine(home: Home) -> list[str]:
    """End what the platform still runs on its own machine, where no agent of it is asked on a cluster.

    Only where it was killed, and not taken down, is there any. Lines worth saying. Raises SetupFailed.
    """
    if not (home.agent / "runs").is_dir():
        return []
    # A process of its own, as when the platform is taken down: the runtime's code is much larger than this.
    done = subprocess.run([*SWEEP, str(home.root)], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason"])[-1]
        raise SetupFailed(
            f"what this machine still runs cannot be ended, and nobody would look after it on a cluster: {said}",
            remedy="`mw down`, and then `mw up`",
        )
    return done.stdout.splitlines()


def token_is_used(environ: Mapping[str, str]) -> bool:
    """As Ray itself finds out: told to, or not told otherwise while there is a token."""
    mode = environ.get("RAY_AUTH_MODE", "").lower()
    if mode:
        return mode in ("token", "k8s")
    home = environ.get("HOME")
    default = Path(home) / ".ray" / "auth_token" if home else None
    named = environ.get("RAY_AUTH_TOKEN") or environ.get("RAY_AUTH_TOKEN_PATH")
    return bool(named) or (default is not None and default.is_file())


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() in _NAMES_OF_HERE


def _check_reached(variable: str, url: str | None, what: str, example: str) -> None:
    if url is None:
        raise SetupFailed(
            f"on a Ray cluster {variable} is needed: the address at which the nodes reach {what}",
            remedy=f"set {variable}={example} with a host name or address that the nodes know",
        )
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise SetupFailed(f"{variable} is no address of HTTP: {url}", remedy=f"write it like {example}")
    if is_loopback(parts.hostname):
        raise SetupFailed(
            f"{variable} is {url}: on each node of the Ray cluster that is the node itself",
            remedy=f"set {variable}={example} with a host name or address that the nodes know",
        )
