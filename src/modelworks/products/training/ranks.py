"""What each replica of a job finds in its environment: ranks, hyperparameters and the usual aliases. Pure."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections.abc import Mapping

from modelworks.products.training.spec import TrainingJobSpec

_FIRST_PORT, _PORTS = 20_000, 10_000  # below the kernel's range of ephemeral ports, which begins at 32768


def master_port(uid: str, attempt: int) -> int:
    """The same for all ranks of an attempt and most likely free: another attempt gets another port."""
    digest = hashlib.sha256(f"{uid}/{attempt}".encode()).digest()
    return _FIRST_PORT + int.from_bytes(digest[:4], "big") % _PORTS


def rank_variables(
    *, uid: str, name: str, attempt: int, rank: int, world_size: int, gpus: int, master_addr: str = "127.0.0.1"
) -> dict[str, str]:
    """The variables of one node. ``RANK`` and ``WORLD_SIZE`` count nodes, as PAI's PyTorchJob gives them."""
    port, per_node = str(master_port(uid, attempt)), str(max(gpus, 1))
    return {
        "MASTER_ADDR": master_addr,
        "MASTER_PORT": port,
        "RANK": str(rank),
        "WORLD_SIZE": str(world_size),
        "NPROC_PER_NODE": per_node,
        "PET_NNODES": str(world_size),
        "PET_NODE_RANK": str(rank),
        "PET_NPROC_PER_NODE": per_node,
        "PET_MASTER_ADDR": master_addr,
        "PET_MASTER_PORT": port,
        "MW_JOB": name,
        "MW_ATTEMPT": str(attempt),
        "PAI_TRAINING_JOB_ID": uid,
        "PAI_JOB_NAME": name,
    }


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
        "PAI_WORKING_DIR": "/ml/usercode",
    }


def _upper(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]", "_", name).upper()
