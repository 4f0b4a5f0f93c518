"""Commands, ports and health checks of other servers, from a service's spec."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from modelworks.engines import commands
from modelworks.engines.commands import Serving
from modelworks.kernel.run import Resources
from modelworks.products.serving import adapters, templates
from modelworks.products.serving.spec import Processor, ServiceSpec

TEMPLATES = [processor for processor in Processor if processor.template]


def spec(processor: str, **more: Any) -> ServiceSpec:
    return ServiceSpec.parse({"processor": processor, "model": "chat:1", **more}, at="spec")


def command(one: ServiceSpec, gpu: int = 0) -> templates.TemplateCommand:
    return templates.template_command(one, "chat", Resources(gpu=gpu), contained=one.image is not None)


@pytest.mark.parametrize(
    ("processor", "health"),
    [
        ("vllm", "/health"),
        ("llamacpp", "/health"),
        ("triton", "/v2/health/ready"),
        ("tfserving", "/v1/models/chat"),
        ("torchserve", "/ping"),
    ],
)
def test_each_has_its_own_health_check_unless_the_user_says_another(processor: str, health: str) -> None:
    assert command(spec(processor)).health == health
    assert command(spec(processor, readiness={"path": "/up"})).health == "/up"


def test_all_templates_are_known() -> None:
    assert {str(processor) for processor in TEMPLATES} == {"vllm", "llamacpp", "triton", "tfserving", "torchserve"}


@pytest.mark.parametrize("processor", TEMPLATES)
def test_in_an_environment_the_launcher_starts_it(processor: Processor) -> None:
    found = command(spec(str(processor), args=["--", "--x", "a b"], port=9000), gpu=2)
    assert found.command == (
        "python", "-m", "modelworks.engines", str(processor), "--model", "/mnt/model", "--gpus", "2",
        "--", "--", "--x", "a b",
    )  # fmt: skip
    assert found.port == 9000


def test_vllm_spreads_over_the_gpus_and_serves_an_adapter_by_the_services_name() -> None:
    plain = commands.vllm(Serving("chat", "/mnt/model", "8000", gpus=4))
    assert shlex.join(plain) == (
        "vllm serve /mnt/model --host 127.0.0.1 --port 8000 --tensor-parallel-size 4 --served-model-name chat"
    )
    adapted = shlex.join(commands.vllm(Serving("chat", "/mnt/base", "8000", adapter="/mnt/model", rank=17)))
    assert "--enable-lora --max-lora-rank 32 --lora-modules chat=/mnt/model" in adapted
    assert "--served-model-name chat-base" in adapted


@pytest.mark.parametrize(
    ("processor", "more", "environment"),
    [
        ("vllm", {}, "vllm"),
        ("llamacpp", {}, "llamacpp"),
        ("triton", {}, None),
        ("vllm", {"image": "vllm/vllm-openai:v0.9"}, None),
        ("onnx", {}, "default"),
        ("sklearn", {}, "python-data"),
        ("xgboost", {}, "boosting"),
        ("lightgbm", {}, "boosting"),
        ("torch", {}, "pytorch"),
    ],
)
def test_the_environment_that_is_meant(processor: str, more: dict[str, Any], environment: str | None) -> None:
    assert templates.default_environment(spec(processor, **more)) == environment


def test_what_is_missing_is_said_at_once() -> None:
    assert "GPU" in templates.notes(spec("vllm"), Resources())[0]
    assert templates.notes(spec("vllm"), Resources(gpu=1)) == ()
    assert "installed on the nodes" in templates.notes(spec("triton"), Resources())[0]
    assert templates.notes(spec("triton", image="nvcr.io/nvidia/tritonserver:25.01-py3"), Resources()) == ()


def test_an_adapter_is_served_over_its_base() -> None:
    over = templates.template_command(spec("llamacpp"), "chat", Resources(), contained=False, based=True)
    assert over.command[:8] == (
        "python", "-m", "modelworks.engines", "llamacpp", "--model", "/mnt/model", "--base", "/mnt/base",
    )  # fmt: skip
    contained = templates.template_command(spec("vllm"), "chat", Resources(), contained=True, based=True)
    assert "vllm serve /mnt/base" in contained.command[2]
    assert "--lora-modules chat=/mnt/model" in contained.command[2]
    own = spec("python", entry="a.py:A", code="s3://code/a/")
    assert templates.merging(own) == ("python", "-m", "modelworks.engines.merge", "--")
    assert templates.merging(spec("command", command="x")) == ()


@pytest.mark.parametrize(
    ("files", "adapter"),
    [
        (("adapter_config.json", "adapter_model.safetensors"), True),
        (("adapter_config.json", "config.json", "model.safetensors"), False),
        (("model.onnx",), False),
    ],
)
def test_a_folder_that_is_an_adapter_alone(files: tuple[str, ...], adapter: bool) -> None:
    assert adapters.is_adapter(files) is adapter


def test_who_serves_an_adapter() -> None:
    assert adapters.refusal(spec("vllm")) is None
    assert "which tfserving does not serve; these do: vllm, llamacpp, python" in str(
        adapters.refusal(spec("tfserving"))
    )
    assert adapters.needs_base(spec("vllm"))
    assert not adapters.needs_base(spec("command", command="serve"))


@pytest.mark.parametrize(
    ("trained_on", "names"),
    [
        ("Qwen/Qwen2.5-0.5B", ("qwen2.5-0.5b",)),
        ("/ml/input/data/Tiny_Llama/", ("tiny-llama",)),
        ("base:3", ("base:3",)),
        ("", ()),
    ],
)
def test_what_a_base_may_be_registered_as(trained_on: str, names: tuple[str, ...]) -> None:
    assert adapters.references(trained_on) == names
    said = adapters.missing(trained_on)
    assert "give base_model" in said
    assert not names or f"register that as {names[0].partition(':')[0]}" in said
