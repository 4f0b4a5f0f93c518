"""A Qwen2 model as Hugging Face keeps it (Qwen2, Qwen2.5; safetensors and tokenizer.json), written as GGUF.

Weights stay as wide as they are. LoRA adapters of such models are written too.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelworks.engines import folders, gguf, ggufwriter
from modelworks.engines.errors import CannotStart
from modelworks.engines.ggufwriter import Tensor, Value

ARCHITECTURE = "qwen2"
_HEAD = 100 << 20  # bytes of a safetensors file's head at most
_NORMAL, _CONTROL, _USER_DEFINED, _UNUSED = 1, 3, 4, 5
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32}
_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")
_IN_LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# How Qwen2 splits text before its merges; llama.cpp knows it by the name qwen2 and has no way to be told another.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def converted(model: Path, base: Path | None, scratch: Path) -> tuple[Path, Path | None]:
    """The folders to be served, where those of Hugging Face without a ``.gguf`` are written as GGUF into ``scratch``.

    Raises CannotStart for what is not converted; folders that hold no such model are left to who reads them.
    """
    below = base and _converted(base, scratch / "base")
    if below and _is_adapter(model) and _architecture(below) == ARCHITECTURE:
        (scratch / "adapter").mkdir(parents=True)
        convert_adapter(model, scratch / "adapter" / "adapter.gguf")
        return scratch / "adapter", below
    return _converted(model, scratch / "model"), below


def _is_adapter(folder: Path) -> bool:
    return not _holds_gguf(folder) and folders.adapter(folder) is not None


def _converted(folder: Path, scratch: Path) -> Path:
    if _holds_gguf(folder) or not (folder / "config.json").is_file():
        return folder
    architecture = _json(folder / "config.json").get("model_type")
    if architecture != ARCHITECTURE:
        raise CannotStart(
            f"{folder} holds no .gguf file, and a model of the architecture {architecture} is not converted here "
            f"({ARCHITECTURE} is): convert_hf_to_gguf.py of llama.cpp makes one"
        )
    scratch.mkdir(parents=True)
    convert(folder, scratch / "model.gguf")
    return scratch


def _holds_gguf(folder: Path) -> bool:
    return folder.is_file() or any(folder.rglob("*.gguf"))


def _architecture(folder: Path) -> str | None:
    files = folders.gguf_files(folder, None)
    return gguf.describe(files.model).get("general.architecture")


def convert(folder: Path, target: Path) -> None:
    """Write the model in ``folder`` to ``target``. Raises CannotStart for what is not such a model."""
    config = _json(folder / "config.json")
    described = _described(folder, config)
    tensors: dict[str, Tensor] = {}
    for file in _weights(folder):
        for name, tensor in _tensors(file).items():
            module, _, part = name.rpartition(".")
            if module == "lm_head" and config.get("tie_word_embeddings"):
                continue  # the same as the embedding
            tensors[f"{_named(module, file)}.{part}"] = tensor
    widest = tensors["token_embd.weight"].kind if "token_embd.weight" in tensors else None
    if widest is None or "output_norm.weight" not in tensors:
        raise CannotStart(f"{folder} is not a whole model: its weights lack the embedding or the last norm")
    described["general.file_type"] = _FILE_TYPES[widest]
    _write(target, described | _vocabulary(folder, config), tensors)


def convert_adapter(folder: Path, target: Path) -> None:
    """Write the LoRA adapter in ``folder``, of peft, to ``target``. Raises CannotStart for other kinds of adapters."""
    config = _json(folder / "adapter_config.json")
    for key in ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "modules_to_save"):
        if config.get(key):
            raise CannotStart(f"{folder}: an adapter with {key} is not converted to GGUF: merge it, and serve that")
    if str(config.get("peft_type")) != "LORA":
        raise CannotStart(f"{folder}: {config.get('peft_type')} is not LoRA: merge it into its base, and serve that")
    tensors = {}
    file = folder / "adapter_model.safetensors"
    if not file.is_file():
        raise CannotStart(f"{folder} holds no adapter_model.safetensors")
    for name, tensor in _tensors(file).items():
        found = re.fullmatch(r"base_model\.model\.(.+)\.lora_([AB])\.weight", name)
        if found is None:
            raise CannotStart(f"{file}: {name} is no part of LoRA: merge the adapter into its base, and serve that")
        tensors[f"{_named(found[1], file)}.weight.lora_{found[2].lower()}"] = tensor
    described: dict[str, Value] = {
        "general.architecture": ARCHITECTURE,
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(config.get("lora_alpha") or 0),
    }
    _write(target, described, tensors)


def _write(target: Path, described: Mapping[str, Value], tensors: Mapping[str, Tensor]) -> None:
    try:
        ggufwriter.write(target, described, tensors)
    except OSError as error:
        raise CannotStart(f"the model cannot be converted to GGUF: {error}") from None


def _described(folder: Path, config: Mapping[str, Any]) -> dict[str, Value]:
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind != "default":
        raise CannotStart(f"{folder}: positions scaled by {kind} are not converted to GGUF: use convert_hf_to_gguf.py")
    for key in ("use_sliding_window", "quantization_config"):
        if config.get(key):
            raise CannotStart(f"{folder}: a model with {key} is not converted to GGUF: use convert_hf_to_gguf.py")
    try:
        heads = int(config["num_attention_heads"])
        return {
            "general.architecture": ARCHITECTURE,
            "general.type": "model",
            "general.name": folder.name,
            "qwen2.block_count": int(config["num_hidden_layers"]),
            "qwen2.context_length": int(config["max_position_embeddings"]),
            "qwen2.embedding_length": int(config["hidden_size"]),
            "qwen2.feed_forward_length": int(config["intermediate_size"]),
            "qwen2.attention.head_count": heads,
            "qwen2.attention.head_count_kv": int(config.get("num_key_value_heads") or heads),
            "qwen2.attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
            "qwen2.rope.freq_base": float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0),
        }
    except (KeyError, TypeError, ValueError) as error:
        raise CannotStart(f"{folder / 'config.json'} is not a Qwen2 model's: {error}") from None


def _vocabulary(folder: Path, config: Mapping[str, Any]) -> dict[str, Value]:
    whole = _json(folder / "tokenizer.json")
    model = whole.get("model") or {}
    steps = (whole.get("pre_tokenizer") or {}).get("pretokenizers") or []
    patterns = [(step.get("pattern") or {}).get("Regex") for step in steps if step.get("type") == "Split"]
    if model.get("type") != "BPE" or patterns != [_SPLIT]:
        raise CannotStart(
            f"{folder / 'tokenizer.json'} does not split text as Qwen2 does: llama.cpp would err on words"
        )
    said = _json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").is_file() else {}
    size = int(config.get("vocab_size") or 0)
    words = [f"[PAD{number}]" for number in range(size)]
    kinds = [_UNUSED] * size
    ids = {str(word): int(number) for word, number in (model.get("vocab") or {}).items()}
    special = {str(one["content"]): one for one in whole.get("added_tokens") or []}
    ids |= {word: int(one["id"]) for word, one in special.items()}
    for word, number in ids.items():
        if number >= size:
            raise CannotStart(f"{folder}: the tokenizer has token {number}, the model {size} tokens")
        words[number] = word
        kinds[number] = _NORMAL if word not in special else _CONTROL if special[word].get("special") else _USER_DEFINED
    described: dict[str, Value] = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [one if isinstance(one, str) else " ".join(one) for one in model.get("merges") or []],
        "tokenizer.ggml.add_bos_token": False,
    }
    for key, name in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding")):
        said_so = said.get(key)
        token = str(said_so.get("content") if isinstance(said_so, dict) else said_so)
        if token in ids:
            described[f"tokenizer.ggml.{name}_token_id"] = ids[token]
    template = said.get("chat_template")
    if (folder / "chat_template.jinja").is_file():
        template = (folder / "chat_template.jinja").read_text("utf-8")
    if isinstance(template, str):
        described["tokenizer.chat_template"] = template
    return described


def _weights(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    names = ["model.safetensors"]
    if index.is_file():
        names = sorted(set(_json(index).get("weight_map", {}).values()))
    files = [folder / name for name in names]
    for file in files:
        if not file.is_file():
            raise CannotStart(f"{folder} holds no {file.name}: the weights are wanted as safetensors")
    return files


def _tensors(file: Path) -> dict[str, Tensor]:
    """What a safetensors file says that it holds."""
    try:
        with file.open("rb") as source:
            (length,) = struct.unpack("<Q", source.read(8))
            if length > _HEAD:
                raise ValueError(f"a head of {length} bytes")
            head = json.loads(source.read(length))
        found = {}
        for name, one in head.items():
            if name == "__metadata__":
                continue
            kind, shape = str(one["dtype"]), tuple(int(axis) for axis in one["shape"])
            if kind not in ggufwriter.TYPES:
                raise CannotStart(f"{file}: {name} is {kind}; {', '.join(ggufwriter.TYPES)} are converted to GGUF")
            # llama.cpp adds norms and biases as F32 only.
            found[name] = Tensor(file, 8 + length + int(one["data_offsets"][0]), kind, shape, widened=len(shape) == 1)
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise CannotStart(f"{file} is no whole safetensors file: {error}") from None
    return found


def _named(module: str, file: Path) -> str:
    layer = _LAYER.fullmatch(module)
    name = _NAMES.get(module) if layer is None else _IN_LAYER.get(layer[2])
    if name is None:
        raise CannotStart(f"{file}: a Qwen2 model has no {module}")
    return name if layer is None else f"blk.{layer[1]}.{name}"


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CannotStart(f"{file} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise CannotStart(f"{file} holds no mapping")
    return found
