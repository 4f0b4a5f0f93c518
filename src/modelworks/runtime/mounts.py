"""Where a run's volumes may be, and what they may show."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePath

from modelworks.home import Home
from modelworks.kernel.errors import Invalid
from modelworks.runtime.sandbox import PLACES, SYSTEM, Mount

Volumes = Sequence[tuple[str, Mount]]


def check_sources(volumes: Volumes, home: Home) -> None:
    """Raises Invalid for a volume that is not there, or that shows more of ``MW_HOME`` than the volumes in it."""
    for name, mount in volumes:
        if not mount.source.is_dir():
            raise Invalid(f"volume {name}: {mount.source} is not a directory on this node", remedy="make or mount it")
        source = Path(os.path.realpath(mount.source))
        for private in (home.root, home.run):
            place = Path(os.path.realpath(private))
            own = source.is_relative_to(os.path.realpath(home.volumes)) and source != place
            if _overlap(source, place) and not own:
                raise Invalid(
                    f"volume {name}: {mount.source} holds or is among the platform's own files in {private}",
                    remedy="choose another directory for the volume",
                )


def check_targets(own: Sequence[Mount], volumes: Volumes) -> None:
    """Raises Invalid for a volume that hides or holds one of the platform's ``own`` mounts, or lies in another volume.

    Until the entry has become the run's user, all that it executes must be ours; and a link that a workload left in a
    volume would lead a mount that lies in it to any other place.
    """
    taken = [*PLACES, *(mount.target for mount in own)]
    for number, (name, mount) in enumerate(volumes):
        others = [*taken, *(other.target for at, (_, other) in enumerate(volumes) if at != number)]
        clash = next((place for place in others if _overlap(PurePath(mount.target), PurePath(place))), None)
        if clash is not None:
            raise Invalid(
                f"volume {name} cannot be at {mount.target}: the sandbox has {clash}",
                remedy="mount it at a path of its own, such as one below /mnt or /data",
            )


def check_hidden(own: Sequence[Mount], home: Home) -> None:
    """Raises Invalid when one of the platform's ``own`` mounts would show ``MW_HOME``, such as a Python around it."""
    place = Path(os.path.realpath(home.root))
    for source in (*(Path(path) for path in SYSTEM), *(mount.source for mount in own if not mount.link)):
        if place.is_relative_to(os.path.realpath(source)):
            raise Invalid(
                f"workloads need {source}, and MW_HOME lies in it ({home.root})",
                remedy="set MW_HOME to a directory outside",
            )


def _overlap(one: PurePath, other: PurePath) -> bool:
    return one.is_relative_to(other) or other.is_relative_to(one)
