"""Models that are a LoRA adapter alone: who serves them, and what they were trained on. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable

from modelworks.engines.folders import ADAPTER_CONFIG
from modelworks.products.serving.spec import Processor, ServiceSpec

# By the engine's own support, or merged when the replica starts.
_ADAPTED = (Processor.VLLM, Processor.LLAMACPP, Processor.PYTHON)
# Servers of the user's, who may know what to do with an adapter.
_OWN_AFFAIR = (Processor.COMMAND, Processor.IMAGE)
_REFERENCE = re.compile(r"[a-z0-9][a-z0-9.:@-]*")


def is_adapter(files: Iterable[str]) -> bool:
    """Whether a model of these ``files`` (paths below it) is a LoRA adapter alone."""
    names = {path.rpartition("/")[2] for path in files}
    return ADAPTER_CONFIG in names and "config.json" not in names


def needs_base(spec: ServiceSpec) -> bool:
    """Whether an adapter alone is of no use to the processor."""
    return spec.processor not in _OWN_AFFAIR


def refusal(spec: ServiceSpec) -> str | None:
    """Why the processor serves no adapter."""
    if spec.processor in (*_ADAPTED, *_OWN_AFFAIR):
        return None
    served = ", ".join(_ADAPTED)
    return f"the model is a LoRA adapter alone, which {spec.processor} does not serve; these do: {served}"


def missing(trained_on: str | None) -> str:
    """What is said where the base model is not known."""
    if not trained_on:
        return "the model is a LoRA adapter alone: give base_model, what it was trained on"
    names = references(trained_on)
    called = f", or register that as {names[-1].partition(':')[0].partition('@')[0]}" if names else ""
    return f"the model is a LoRA adapter alone, trained on {trained_on}: give base_model{called}"


def references(trained_on: str) -> tuple[str, ...]:
    """What a model may be registered as that ``adapter_config.json`` names by a path, or as a model of a hub.

    ``Qwen/Qwen2.5-0.5B`` → ``qwen2.5-0.5b``.
    """
    last = trained_on.rstrip("/").rpartition("/")[2].lower()
    slug = re.sub(r"[^a-z0-9.:@-]+", "-", last).strip("-.")
    return tuple(dict.fromkeys(name for name in (trained_on, slug) if _REFERENCE.fullmatch(name)))
