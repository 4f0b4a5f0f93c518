"""The notice that a cloud gives a spot instance before it takes it away, read from the instance's metadata service.

Asked only where the machine's firmware says that it is such a cloud's, or where a setting names the cloud.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Self

from modelworks.home import Home
from modelworks.kernel.errors import ModelworksError
from modelworks.settings import Settings

PERIOD = 5.0  # seconds between looks
_TIMEOUT = 2.0
_MOST = 1 << 16  # bytes of an answer
_GCP_NOTICE = 30.0  # seconds between the mark and the end; the mark itself has no time
_DMI = Path("/sys/class/dmi/id")
_VENDORS = {"Amazon EC2": "aws", "Google": "gcp", "Microsoft Corporation": "azure", "Alibaba Cloud": "alibaba"}
# Of every virtual machine of Azure, and of no other machine that Microsoft's hypervisor runs.
_AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpotNotice:
    """The machine will be taken away at ``at`` (Unix seconds); ``message`` says who said so."""

    at: float
    message: str


def cloud_of(dmi: Path = _DMI) -> str | None:
    """Whose virtual machine this is, by its firmware: ``aws``, ``gcp``, ``azure``, ``alibaba`` or None."""
    vendor, tag = _read(dmi / "sys_vendor"), _read(dmi / "chassis_asset_tag")
    cloud = _VENDORS.get(vendor)
    return None if cloud == "azure" and tag != _AZURE_TAG else cloud


class Metadata:
    """A cloud's metadata service at ``base``; never through a proxy."""

    def __init__(self, base: str) -> None:
        self._base = base.rstrip("/")
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def ask(self, path: str, headers: dict[str, str], method: str = "GET") -> str | None:
        """The answer, or None for 404. Raises OSError when there is none."""
        request = urllib.request.Request(self._base + path, headers=headers, method=method)
        try:
            with self._open(request, timeout=_TIMEOUT) as answer:
                return str(answer.read(_MOST).decode(errors="replace"))
        except urllib.error.HTTPError as error:
            with error:
                if error.code == 404:
                    return None
            raise


def aws(service: Metadata, now: float) -> SpotNotice | None:
    """EC2: two minutes before the end of a spot instance."""
    token = service.ask("/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "60"}, "PUT")
    headers = {"X-aws-ec2-metadata-token": token or ""}
    said = service.ask("/latest/meta-data/spot/instance-action", headers)
    if said is None:
        return None
    action = json.loads(said)
    return SpotNotice(_utc(action["time"]), f"EC2 will {action['action']} the spot instance")


def gcp(service: Metadata, now: float) -> SpotNotice | None:
    """Compute Engine: half a minute before the end."""
    said = service.ask("/computeMetadata/v1/instance/preempted", {"Metadata-Flavor": "Google"})
    return SpotNotice(now + _GCP_NOTICE, "Compute Engine preempts the instance") if said == "TRUE" else None


def azure(service: Metadata, now: float) -> SpotNotice | None:
    """Azure: scheduled events that evict or delete this virtual machine."""
    headers = {"Metadata": "true"}
    said = service.ask("/metadata/scheduledevents?api-version=2020-07-01", headers)
    events = json.loads(said).get("Events", []) if said else []
    ending = [event for event in events if event.get("EventType") in ("Preempt", "Terminate")]
    if not ending:
        return None
    # An event of a scale set is told to all its machines.
    name = service.ask("/metadata/instance/compute/name?api-version=2021-02-01&format=text", headers)
    for event in ending:
        if name is None or name in event.get("Resources", [name]):
            begins = event.get("NotBefore")  # empty once the event has begun
            at = parsedate_to_datetime(begins).timestamp() if begins else now
            return SpotNotice(at, f"Azure: {event['EventType']} of the virtual machine")
    return None


def alibaba(service: Metadata, now: float) -> SpotNotice | None:
    """ECS: five minutes before a preemptible instance is released."""
    token = service.ask("/latest/api/token", {"X-aliyun-ecs-metadata-token-ttl-seconds": "60"}, "PUT")
    headers = {"X-aliyun-ecs-metadata-token": token} if token else {}
    said = service.ask("/latest/meta-data/instance/spot/termination-time", headers)
    return SpotNotice(_utc(said.strip()), "ECS releases the preemptible instance") if said and said.strip() else None


Reader = Callable[[Metadata, float], SpotNotice | None]
READERS: dict[str, tuple[Reader, str]] = {
    "aws": (aws, "http://169.254.169.254"),
    "gcp": (gcp, "http://metadata.google.internal"),
    "azure": (azure, "http://169.254.169.254"),
    "alibaba": (alibaba, "http://100.100.100.200"),
}


class SpotWatch:
    """Asks a cloud's metadata service for a notice. ``where`` is a cloud's name, ``auto`` or ``off``."""

    def __init__(self, where: str = "auto", url: str | None = None, period: float = PERIOD) -> None:
        cloud = cloud_of() if where == "auto" else where
        self._reader: Reader | None
        self._reader, base = READERS.get(cloud or "", (None, ""))
        self._service = Metadata(url or base)
        self._period = period
        self._known: SpotNotice | None = None
        self._silent = False

    @classmethod
    def of(cls, home: Home) -> Self:
        """By the settings of the home; wrong ones, which keep a platform from starting, are as none."""
        try:
            found = Settings.load(home)
        except ModelworksError as error:
            log.warning("the settings cannot be read: %s", error.detail)
            found = Settings()
        return cls(found.spot_metadata, found.spot_metadata_url)

    async def watch(self, call: Callable[..., Awaitable[Any]], tell: Callable[[SpotNotice | None], None]) -> None:
        """Tell each change: a notice, another time, or None when it was taken back. ``call`` runs what blocks."""
        while self._reader is not None:
            try:
                found = await call(self._reader, self._service, time.time())
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                if not self._silent:
                    log.warning("the metadata service does not say whether this instance ends: %s", error)
                self._silent = True
            else:
                self._silent = False
                # Where the cloud gives no time, what it said first counts.
                if found is None or self._known is None or (found != self._known and self._reader is not gcp):
                    changed, self._known = found != self._known, found
                    if changed:
                        tell(found)
            await asyncio.sleep(self._period)


def _utc(text: str) -> float:
    at = datetime.fromisoformat(text)
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return ""  # no such firmware, as in a container
