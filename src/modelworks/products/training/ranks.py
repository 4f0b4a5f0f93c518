"""What each replica of a job finds in its environment: ranks, hyperparameters and the usual aliases. Pure."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from typing import NamedTuple

from modelworks.kernel.run import Resources
from modelworks.products.training import frameworks
from modelworks.products.training.gang import Gang, Member
from modelworks.products.training.policy_spec import Framework
from modelworks.products.training.spec import TrainingJobSpec
from modelworks.runtime.limits import THREAD_VARIABLES


class JobIdentity(NamedTuple):
    """Which attempt of which job."""

    uid: str
    name: str
    attempt: int


def replica_variables(
    job: JobIdentity, spec: TrainingJobSpec, gang: Gang, member: Member, resources: Resources
) -> dict[str, str]:
    """The variables of one replica. ``RANK`` and ``WORLD_SIZE`` count replicas, as PAI's PyTorchJob gives them."""
    processes = process_count(spec, resources)
    common = {
        "MASTER_ADDR": gang.master,
        "MASTER_PORT": str(gang.port),
        "RANK": str(member.rank),
        "WORLD_SIZE": str(gang.size),
        "NPROC_PER_NODE": str(processes),
        "MW_JOB": job.name,
        "MW_ATTEMPT": str(job.attempt),
        "MW_ROLE": member.role,
        "MW_ROLE_INDEX": str(member.index),
        "MW_CHECKPOINT_EVERY": str(spec.checkpoint.every),
        "MW_CHECKPOINT_KEEP": str(spec.checkpoint.keep),
        "PAI_TRAINING_JOB_ID": job.uid,
        "PAI_JOB_NAME": job.name,
    }
    return common | threads(resources.cpu, processes) | _framework(job, spec, gang, member, processes)


def _framework(job: JobIdentity, spec: TrainingJobSpec, gang: Gang, member: Member, processes: int) -> dict[str, str]:
    if spec.framework is Framework.TENSORFLOW:
        return frameworks.tensorflow(gang, member)
    if spec.framework is Framework.MPI:
        return frameworks.mpi(gang, member, name=job.name)
    return frameworks.pytorch(gang, member, processes=processes)


def process_count(spec: TrainingJobSpec, resources: Resources) -> int:
    """How many processes each replica is for: as said, else one for each GPU, or one."""
    return spec.processes or max(resources.gpu, 1)


def threads(millicores: int, processes: int) -> dict[str, str]:
    """A process's share of the cores. The same in every attempt: sums in another order are other sums."""
    share = max(1, -(-millicores // 1000) // processes)
    return dict.fromkeys(THREAD_VARIABLES, str(share))


def hyperparameter_texts(values: Mapping[str, str | int | float | bool]) -> dict[str, str]:
    """Values as text: a boolean in JSON's spelling, a number as Python prints it."""
    return {name: json.dumps(value) if isinstance(value, bool) else str(value) for name, value in values.items()}


def hyperparameter_variables(values: Mapping[str, str | int | float | bool]) -> dict[str, str]:
    """``PAI_HPS`` (JSON), ``PAI_HPS_<NAME>`` each, and ``PAI_USER_ARGS`` (``--name value …``, quoted for a shell)."""
    if not values:
        return {}
    texts = hyperparameter_texts(values)
    variables = {f"PAI_HPS_{_upper(name)}": text for name, text in texts.items()}
    variables["PAI_HPS"] = json.dumps(texts)
    variables["PAI_USER_ARGS"] = shlex.join(part for name, text in texts.items() for part in (f"--{name}", text))
    return variables


def channel_variable(channel: str) -> str:
    """The variable that holds a channel's path, such as ``MW_INPUT_DATA``."""
    return f"MW_INPUT_{_upper(channel)}"


def path_aliases(spec: TrainingJobSpec) -> dict[str, str]:
    """Variables that hold paths in the sandbox; where nothing can be mounted they are rewritten like the command."""
    aliases = {f"PAI_INPUT_{_upper(channel)}": f"/ml/input/data/{channel}" for channel in spec.inputs}
    return aliases | {
        "MW_HYPERPARAMETERS_FILE": "/ml/input/config/hyperparameters.json",
        "PAI_CONFIG_DIR": "/ml/input/config",
        "PAI_OUTPUT_MODEL": "/ml/output/model",
        "PAI_OUTPUT_CHECKPOINTS": "/ml/output/checkpoints",
        "PAI_OUTPUT_TENSORBOARD": "/ml/output/tensorboard",
        "PAI_WORKING_DIR": "/ml/usercode",
    }


def _upper(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()
