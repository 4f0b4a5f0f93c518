"""Templates: another server's command, port, health check and environment, from a service's spec. Pure.

In an environment a launcher of ours starts the server, since it can look at the model's folder and say what is not
installed; in a container image, which need not hold Python, a shell does.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelworks.engines import commands
from modelworks.engines.commands import Serving
from modelworks.kernel.run import Resources
from modelworks.products.serving.spec import BASE_MODEL_PATH, MODEL_PATH, Processor, Readiness, ServiceSpec

_DEFAULT_HEALTH = Readiness().path
# The shipped environment that holds the engine, of those that packages alone can make.
_ENVIRONMENTS = {
    Processor.VLLM: "vllm",
    Processor.LLAMACPP: "llamacpp",
    Processor.SKLEARN: "python-data",
    Processor.XGBOOST: "boosting",
    Processor.LIGHTGBM: "boosting",
    Processor.TORCH: "pytorch",
}
_CONFIGURATION = '"${TMPDIR:-/tmp}/config.properties"'


@dataclass(frozen=True)
class TemplateCommand:
    """What a replica runs. ``command`` is an argument list; ``env`` are variables that the user's own replace."""

    command: tuple[str, ...]
    port: int
    health: str
    env: Mapping[str, str] = field(default_factory=dict)


def template_command(
    spec: ServiceSpec, name: str, resources: Resources, *, contained: bool, based: bool = False
) -> TemplateCommand:
    """Of a service called ``name`` whose processor is a template.

    ``contained``: it runs in an image; ``based``: there is a base model for its adapter.
    """
    if contained:
        command = _in_image(spec, name, resources, based)
    else:
        command = _in_environment(spec, resources, based)
    return TemplateCommand(command, spec.port, health_path(spec, name), _variables(spec))


def merging(spec: ServiceSpec) -> tuple[str, ...]:
    """What stands before the command of a processor that knows no adapters, so that it finds the merged model."""
    return ("python", "-m", "modelworks.engines.merge", "--") if spec.processor is Processor.PYTHON else ()


def health_path(spec: ServiceSpec, name: str) -> str:
    """The user's, unless it was left at the default and the server has another one."""
    if spec.readiness.path != _DEFAULT_HEALTH:
        return spec.readiness.path
    match spec.processor:
        case Processor.TRITON:
            return "/v2/health/ready"
        case Processor.TFSERVING:
            return f"/v1/models/{name}"
        case Processor.TORCHSERVE:
            return "/ping"
        case _:
            return _DEFAULT_HEALTH


def default_environment(spec: ServiceSpec) -> str | None:
    """The environment of a service that names none; None is the platform's own Python, or the image's."""
    if spec.image is not None or spec.processor in (Processor.COMMAND, Processor.IMAGE):
        return None
    return _ENVIRONMENTS.get(spec.processor, None if spec.processor.template else "default")


def notes(spec: ServiceSpec, resources: Resources) -> tuple[str, ...]:
    """What somebody who applies a template should know at once."""
    if spec.processor is Processor.VLLM and not resources.gpu:
        return ("vllm without a GPU: give resources.gpu, or use the processor llamacpp, which serves GGUF on CPUs",)
    if spec.processor in (Processor.TRITON, Processor.TFSERVING) and spec.image is None and spec.environment is None:
        return (f"{spec.processor} is no Python package: without image it must be installed on the nodes",)
    return ()


def _in_environment(spec: ServiceSpec, resources: Resources, based: bool) -> tuple[str, ...]:
    command = ["python", "-m", "modelworks.engines", str(spec.processor), "--model", MODEL_PATH]
    if based:
        command += ["--base", BASE_MODEL_PATH]
    if resources.gpu:
        command += ["--gpus", str(resources.gpu)]
    return (*command, "--", *spec.args)


def _in_image(spec: ServiceSpec, name: str, resources: Resources, based: bool) -> tuple[str, ...]:
    serving = Serving(
        service=name,
        model=BASE_MODEL_PATH if based else MODEL_PATH,
        port="$PORT",
        host="127.0.0.1" if spec.network == "host" else "0.0.0.0",
        adapter=MODEL_PATH if based else None,
        rank=64,  # nobody has looked at the adapter's
        gpus=resources.gpu,
        args=spec.args,
    )
    match spec.processor:
        case Processor.VLLM:
            script = f"exec {_words(commands.vllm(serving))}"
        case Processor.TRITON:
            script = f"exec {_words(commands.triton(serving))}"
        case Processor.TFSERVING:
            script = f"exec {_words(commands.tfserving(serving))}"
        case Processor.TORCHSERVE:
            lines = commands.torchserve_configuration(serving, ("8181", "8182")).splitlines()
            written = " ".join(_word(line) for line in lines)
            start = _words(commands.torchserve(serving, "CONFIGURATION")).replace("CONFIGURATION", _CONFIGURATION, 1)
            script = f"printf '%s\\n' {written} > {_CONFIGURATION} && exec {start}"
        case _:
            script = _llamacpp_in_image(serving)
    return ("/bin/sh", "-c", f'PORT="${{PORT:-{spec.port}}}"; {script}')


def _llamacpp_in_image(serving: Serving) -> str:
    """llama.cpp's own server image: it wants a file where we have a folder."""
    find = "find {} -name '*.gguf' | sort | head -n 1"
    adapter = f' --lora "$({find.format(serving.adapter)})"' if serving.adapter else ""
    tail = _words(("--alias", serving.service, "--metrics", *serving.args))
    return (
        f'PATH="$PATH:/app"; exec llama-server -m "$({find.format(serving.model)})"{adapter}'
        f' --host {serving.host} --port "$PORT" {tail}'
    )


def _words(command: tuple[str, ...]) -> str:
    return " ".join(_word(part) for part in command)


def _word(part: str) -> str:
    """Quoted for a shell that puts in the port and nothing else."""
    return '"$PORT"'.join(shlex.quote(piece) if piece else "" for piece in part.split("$PORT"))


def _variables(spec: ServiceSpec) -> dict[str, str]:
    """Nothing is fetched behind the user's back: the model is what is mounted."""
    if spec.processor is Processor.VLLM:
        return {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return {}
