"""``python -m modelworks.engines NAME --model DIR [--base DIR] [--gpus N] [-- ARGUMENTS]``; it listens on ``$PORT``."""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from modelworks.engines import commands, folders, llamacpp
from modelworks.engines.commands import Serving
from modelworks.engines.errors import CannotStart

# What people do when a program is not there.
_REMEDIES = {
    "vllm": "use environment: vllm, or image: vllm/vllm-openai:<tag>",
    "tritonserver": "use image: nvcr.io/nvidia/tritonserver:<tag>, or install it on the nodes",
    "tensorflow_model_server": "use image: tensorflow/serving:<tag>, or install it on the nodes",
    "torchserve": "add torchserve and torch-model-archiver to the environment, or use image: pytorch/torchserve:<tag>",
    "java": "TorchServe runs on Java: install a JRE (11 or later) on the nodes, or use image: pytorch/torchserve:<tag>",
}
_FAILED = 3


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m modelworks.engines", allow_abbrev=False)
    parser.add_argument("engine", choices=("vllm", "llamacpp", "triton", "torchserve", "tfserving"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--gpus", type=int, default=0)
    own, rest = _split(arguments)
    chosen = parser.parse_args(own)
    port, service = os.environ.get("PORT", "8000"), os.environ.get("MW_SERVICE", "model")
    try:
        if chosen.engine == "llamacpp":
            llamacpp.run(service, chosen.model, chosen.base, int(port), "127.0.0.1", rest)
            return 0
        command = _command(chosen, _serving(chosen, service, port, tuple(rest)))
        program = _installed(command[0])
    except CannotStart as error:
        sys.stderr.write(f"error: {error}\n")
        return _FAILED
    return _become(program, command)


def _split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The user's arguments stand behind ``--`` and may look like ours."""
    place = list(arguments).index("--") if "--" in arguments else len(arguments)
    return list(arguments[:place]), list(arguments[place + 1 :])


def _become(program: str, command: tuple[str, ...]) -> int:
    """This process is the server from here on."""
    sys.stdout.write(f"starts {' '.join(command)}\n")
    sys.stdout.flush()
    os.execv(program, command)


def _command(chosen: argparse.Namespace, serving: Serving) -> tuple[str, ...]:
    scratch = Path(tempfile.mkdtemp(prefix="engine-"))
    match chosen.engine:
        case "vllm":
            return commands.vllm(serving)
        case "triton":
            _installed("tritonserver")
            return commands.triton(_at(serving, folders.triton_repository(chosen.model, serving.service, scratch)))
        case "tfserving":
            _installed("tensorflow_model_server")
            return commands.tfserving(_at(serving, folders.tensorflow_base(chosen.model, scratch)))
        case _:
            _installed("torchserve")
            _installed("java")
            configuration = scratch / "config.properties"
            configuration.write_text(commands.torchserve_configuration(serving, (_free_port(), _free_port())))
            return commands.torchserve(serving, str(configuration))


def _serving(chosen: argparse.Namespace, service: str, port: str, args: tuple[str, ...]) -> Serving:
    config = folders.adapter(chosen.model)
    if config is None:
        return Serving(service, str(chosen.model), port, gpus=chosen.gpus, args=args)
    if chosen.engine != "vllm":
        raise CannotStart(f"{chosen.model} holds a LoRA adapter, and {chosen.engine} serves none: merge it first")
    if chosen.base is None:
        raise folders.needs_base(chosen.model, config)
    rank = config.get("r")
    return Serving(
        service,
        str(chosen.base),
        port,
        adapter=str(chosen.model),
        rank=rank if isinstance(rank, int) else 16,
        gpus=chosen.gpus,
        args=args,
    )


def _at(serving: Serving, folder: Path) -> Serving:
    return Serving(serving.service, str(folder), serving.port, serving.host, gpus=serving.gpus, args=serving.args)


def _installed(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        raise CannotStart(f"{program} is not installed here: {_REMEDIES[program]}")
    return found


def _free_port() -> str:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        return str(trial.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
