"""How long the services' replicas are usually silent, kept on the disk: a gateway that begins anew knows it at once.

A file for each gateway of the machine. Of a service that one knows nothing of, it takes what the others have seen.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from modelworks.gateway.service import Service

_EVERY = 5.0
_PREFIX = "silence-"
_NO_LESS = 1.0  # seconds; below that, it makes no difference how long a silence is usual
log = logging.getLogger("modelworks.gateway.usual")


class Usual:
    """``folder`` holds the files, ``name`` is this gateway's. ``services``: those that it serves now."""

    def __init__(self, folder: Path, name: str, services: Callable[[], Iterable[Service]]) -> None:
        self._folder = folder
        self._path = folder / f"{_PREFIX}{name}.json"
        self._services = services
        self._written: dict[str, float] = {}
        self._read: dict[Path, tuple[int, dict[str, float]]] = {}  # by file: when it was written, what it says

    async def follow(self) -> None:
        """Until cancelled: learn what others tell, and tell what is learnt."""
        while True:
            await asyncio.sleep(_EVERY)
            # Not here: a disk may take its time, and every request would wait for it.
            if any(not service.silence.usual for service in self._services()):
                await asyncio.to_thread(self._look)
                self._recall()
            await asyncio.to_thread(self._write, self._known())

    def load(self) -> None:
        """Before the first request."""
        self._look()
        self._recall()

    def save(self) -> None:
        """Before the process ends."""
        self._write(self._known())

    def _known(self) -> dict[str, float]:
        return {
            service.route.uid: float(f"{max(_NO_LESS, usual):.2g}")
            for service in self._services()
            if (usual := service.silence.usual)
        }

    def _write(self, known: dict[str, float]) -> None:
        if not known or known == self._written:
            return
        temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}")  # one that drains may write it, too
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(known))
            temporary.replace(self._path)
        except OSError as error:
            log.warning("how long answers usually take is not kept for the next start: %s", error)
            return
        self._written = known

    def _look(self) -> None:
        """Read the files that are not as they were."""
        read: dict[Path, tuple[int, dict[str, float]]] = {}
        for path in self._folder.glob(f"{_PREFIX}*.json"):
            try:
                written = path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
            known = self._read.get(path)
            read[path] = known if known is not None and known[0] == written else (written, _parsed(path))
        self._read = read

    def _recall(self) -> None:
        for service in self._services():
            if not service.silence.usual:
                uid = service.route.uid
                seconds = max((known.get(uid, 0.0) for _, known in self._read.values()), default=0.0)
                if seconds > 0.0:
                    service.silence.recall(seconds)


def _parsed(path: Path) -> dict[str, float]:
    try:
        return {str(uid): float(seconds) for uid, seconds in json.loads(path.read_text()).items()}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        log.warning("%s is passed over, and how long answers usually take is learnt anew: %s", path, error)
        return {}
