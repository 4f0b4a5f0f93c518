"""Where webhooks may go. A caller who names one must not have the platform ask what only the platform can reach."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit

ALLOWED = "MW_WEBHOOK_ALLOW"
_LONGEST = 2048
# Where clouds tell a machine its own credentials, besides link-local addresses: Alibaba Cloud, Azure, Oracle, AWS.
_METADATA = frozenset(map(ipaddress.ip_address, ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")))


def allowed_hosts() -> frozenset[str]:
    """Host names and addresses of ``MW_WEBHOOK_ALLOW`` (commas between) that may be called whatever they are."""
    return frozenset(part.strip().lower() for part in os.environ.get(ALLOWED, "").split(",") if part.strip())


def check_webhook(url: str) -> str | None:
    """What is wrong with ``url`` as it stands, or None. Its name is looked up when it is called, and judged again."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "it is not a URL"
    if len(url) > _LONGEST or not url.isprintable() or " " in url or not url.isascii():
        return "it is not a URL"
    if parts.scheme not in ("http", "https") or not host:
        return "only http:// and https:// are"
    if parts.username or parts.password:
        return "it holds a user's name; results are signed instead"
    if host == "localhost" and host not in allowed_hosts():
        return refusal(host)
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return None  # a name
    return None if may_be_called(host, host, allowed_hosts()) else refusal(host)


def may_be_called(host: str, address: str, allowed: Collection[str]) -> bool:
    """Whether ``address``, to which ``host`` led, is somebody else's: not this machine, its link, what its cloud tells
    it alone, or no host at all."""
    if host.lower() in allowed or address in allowed:
        return True
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        found = found.ipv4_mapped
    nobodys = (
        found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified or found.is_reserved
    )
    return not nobodys and found not in _METADATA


def refusal(host: str) -> str:
    where = "this machine, its link or its cloud's metadata"
    return f"{host} is {where}; {ALLOWED}={host} in the platform's environment would allow it"


def path_of(parts: SplitResult) -> str:
    """Path and query, as a request line has them."""
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
