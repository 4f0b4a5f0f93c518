"""Where the platform puts code, volumes, logs and outputs that jobs and services have in common. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from modelworks.kernel.run import Input, VolumeMount
from modelworks.products.workload import VolumeReference


def workspace_bucket(workspace: str) -> str:
    """The bucket in which a workspace keeps code, outputs and logs of which nobody said where they should go."""
    return f"mw-{workspace}"


MODELS = "models/"
"""Below it in the workspace's bucket the registry keeps versions, which nobody changes."""


def log_uri(workspace: str, key: str) -> str:
    """The log of a run; with a resource's uid alone, those of all its runs."""
    return f"s3://{workspace_bucket(workspace)}/logs/{key}/"


def volume_mounts(references: Sequence[VolumeReference], resolved: Mapping[str, Any]) -> tuple[VolumeMount, ...]:
    """The mounts of ``spec.volumes`` at the directories that apply found for their names."""
    return tuple(
        VolumeMount(
            name=volume.name,
            source=resolved["volumes"][volume.name],
            path=volume.mount_path,
            read_only=volume.read_only,
        )
        for volume in references
    )


_CONTENT_ADDRESSED = re.compile(r"/code/([0-9a-f]{64})\.tar\.gz")


def code_digest(uri: str) -> str | None:
    """The SHA-256 that the name of an archive packed by the client holds; None for code kept elsewhere."""
    match = _CONTENT_ADDRESSED.search(uri)
    return f"sha256:{match[1]}" if match else None


def code_input(uri: str) -> Input:
    """User code at /ml/usercode: a folder as it is, an archive unpacked."""
    return Input(
        channel="usercode",
        uri=uri,
        paths=("/ml/usercode",),
        unpack=uri.endswith((".tar.gz", ".tgz")),
        env="MW_CODE_DIR",
    )
