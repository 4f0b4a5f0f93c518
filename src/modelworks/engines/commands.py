"""The command lines of other servers. Pure: what is in the model's folder is told, not looked at."""

from __future__ import annotations

from dataclasses import dataclass

# What vLLM takes for --max-lora-rank.
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class Serving:
    """What every server must be told.

    ``port`` is text, since a shell may have to put it in (``$PORT``). ``adapter`` is the folder of a LoRA adapter whose
    base model is ``model``; ``args`` are the user's and come last, so that they win.
    """

    service: str
    model: str
    port: str
    host: str = "127.0.0.1"
    adapter: str | None = None
    rank: int = 16
    gpus: int = 0
    args: tuple[str, ...] = ()


def vllm(serving: Serving) -> tuple[str, ...]:
    """vLLM's OpenAI-compatible server. With an adapter, the service's name is the adapter and the base is beside it."""
    command = ["vllm", "serve", serving.model, "--host", serving.host, "--port", serving.port]
    if serving.gpus > 1:
        command += ["--tensor-parallel-size", str(serving.gpus)]
    if serving.adapter is None:
        command += ["--served-model-name", serving.service]
    else:
        rank = next((known for known in _RANKS if known >= serving.rank), _RANKS[-1])
        command += ["--served-model-name", f"{serving.service}-base", "--enable-lora", "--max-lora-rank", str(rank)]
        command += ["--lora-modules", f"{serving.service}={serving.adapter}"]
    return (*command, *serving.args)


def triton(serving: Serving) -> tuple[str, ...]:
    """Triton over HTTP; gRPC and its metrics' port are nobody's to reach."""
    return (
        "tritonserver",
        f"--model-repository={serving.model}",
        f"--http-address={serving.host}",
        f"--http-port={serving.port}",
        "--allow-grpc=false",
        "--allow-metrics=false",
        *serving.args,
    )


def tfserving(serving: Serving) -> tuple[str, ...]:
    """TensorFlow Serving's REST API; its gRPC port is 0, which is none."""
    return (
        "tensorflow_model_server",
        f"--rest_api_port={serving.port}",
        "--port=0",
        f"--model_name={serving.service}",
        f"--model_base_path={serving.model}",
        *serving.args,
    )


def torchserve(serving: Serving, configuration: str) -> tuple[str, ...]:
    """TorchServe with every archive of the model's folder; ``configuration`` is the file of its addresses."""
    return (
        "torchserve", "--start", "--foreground", "--ncs", "--model-store", serving.model, "--models", "all",
        "--ts-config", configuration, "--disable-token-auth", *serving.args,
    )  # fmt: skip


def torchserve_configuration(serving: Serving, spare: tuple[str, str]) -> str:
    """Its addresses: management and metrics are for the replica itself, at the ``spare`` ports."""
    management, metrics = spare
    return "\n".join(
        (
            f"inference_address=http://{serving.host}:{serving.port}",
            f"management_address=http://127.0.0.1:{management}",
            f"metrics_address=http://127.0.0.1:{metrics}",
            "",
        )
    )
