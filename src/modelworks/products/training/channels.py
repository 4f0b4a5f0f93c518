"""Where a channel's input is in the sandbox. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator

from modelworks.products.training.spec import TrainingJobSpec
from modelworks.products.workload import arguments

_DIGEST = re.compile("[0-9a-f]{32,64}")


def places(spec: TrainingJobSpec, channel: str) -> tuple[str, ...]:
    """The paths of a channel, ``/mnt/<channel>`` first.

    A folder is also there under its own name (``/mnt/model/Qwen2.5-7B``) when the channel is one of a model, or when
    the job's command, variables or hyperparameters name it so. Not always: a dataset would seem to have another class,
    and who looks through all of a registered model, whose folder is named by its content, would find each file twice.
    """
    found = (f"/mnt/{channel}", f"/ml/input/data/{channel}")
    _, _, path = spec.inputs[channel].rpartition("://")
    parent, _, name = path.rstrip("/").rpartition("/")
    named = f"/mnt/{channel}/{name}"
    taken = [*spec.mounts, *(volume.mount_path for volume in spec.volumes)]
    if not parent or name in ("", ".", "..") or any(one == named or one.startswith(f"{named}/") for one in taken):
        return found
    if ("model" in channel.lower() and not _DIGEST.fullmatch(name)) or any(named in word for word in _words(spec)):
        return (*found, named)
    return found


def _words(spec: TrainingJobSpec) -> Iterator[str]:
    """Whatever of a job may hold a path."""
    for command in (spec.command, *(role.command for role in spec.roles)):
        yield from arguments(command or ())
    for env in (spec.env, *(role.env for role in spec.roles)):
        yield from env.values()
    yield from (str(value) for value in spec.hyperparameters.values())
