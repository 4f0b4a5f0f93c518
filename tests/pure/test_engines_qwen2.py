"""What is written as GGUF of a Hugging Face folder, and what is refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from modelworks.engines import gguf, qwen2
from modelworks.engines.errors import CannotStart

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONFIG = {
    "model_type": "qwen2", "num_attention_heads": 1, "num_hidden_layers": 0, "max_position_embeddings": 8,
    "hidden_size": 2, "intermediate_size": 4, "vocab_size": 3, "tie_word_embeddings": True,
}  # fmt: skip
TOKENIZER = {
    "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []},
    "pre_tokenizer": {"pretokenizers": [{"type": "Split", "pattern": {"Regex": SPLIT}}, {"type": "ByteLevel"}]},
    "added_tokens": [{"id": 1, "content": "<|im_end|>", "special": True}],
}


def safetensors(path: Path, **tensors: tuple[str, list[int], bytes]) -> None:
    head, body = {}, b""
    for name, (kind, shape, data) in tensors.items():
        head[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def folder(path: Path, config: dict[str, Any] | None = None, tokenizer: dict[str, Any] | None = None) -> Path:
    path.mkdir()
    (path / "config.json").write_text(json.dumps(CONFIG | (config or {})))
    (path / "tokenizer.json").write_text(json.dumps(TOKENIZER | (tokenizer or {})))
    embedding = struct.pack("<6H", *range(6))
    # 1.0 and -2.0 as bfloat16: the upper halves of the same numbers of 32 bits.
    norm = struct.pack("<2H", 0x3F80, 0xC000)
    weights = {"model.embed_tokens.weight": ("BF16", [3, 2], embedding), "model.norm.weight": ("BF16", [2], norm)}
    safetensors(path / "model.safetensors", **weights)
    return path


def test_weights_stay_as_wide_as_they_are_and_norms_become_single(tmp_path: Path) -> None:
    model = folder(tmp_path / "model")
    (tmp_path / "scratch").mkdir()
    served, base = qwen2.converted(model, None, tmp_path / "scratch")
    assert base is None
    file = served / "model.gguf"
    assert gguf.describe(file) == {"general.architecture": "qwen2", "general.type": "model"}
    data = file.read_bytes()
    assert data[-64:-52] == struct.pack("<6H", *range(6))
    assert data[-32:-24] == struct.pack("<2f", 1.0, -2.0)
    assert len(data) % 32 == 0


@pytest.mark.parametrize(
    ("config", "tokenizer", "said"),
    [
        ({"model_type": "llama"}, {}, "architecture llama is not converted here"),
        ({"quantization_config": {"bits": 4}}, {}, "quantization_config"),
        ({"use_sliding_window": True}, {}, "use_sliding_window"),
        ({"rope_scaling": {"type": "yarn"}}, {}, "positions scaled by yarn"),
        ({"hidden_size": "wide"}, {}, "is not a Qwen2 model's"),
        ({"vocab_size": 1}, {}, "has token 1, the model 1 tokens"),
        ({}, {"pre_tokenizer": {"pretokenizers": []}}, "does not split text as Qwen2 does"),
    ],
)
def test_what_would_be_served_wrongly_is_refused(
    config: dict[str, Any], tokenizer: dict[str, Any], said: str, tmp_path: Path
) -> None:
    model = folder(tmp_path / "model", config, tokenizer)
    with pytest.raises(CannotStart, match=said):
        qwen2.converted(model, None, tmp_path / "scratch")


def test_torn_weights_are_refused(tmp_path: Path) -> None:
    model = folder(tmp_path / "model")
    whole = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(whole[:-4])
    with pytest.raises(CannotStart, match="shorter than its head says"):
        qwen2.convert(model, tmp_path / "a.gguf")
    (model / "model.safetensors").write_bytes(whole[:20])
    with pytest.raises(CannotStart, match="no whole safetensors file"):
        qwen2.convert(model, tmp_path / "a.gguf")
    (model / "model.safetensors").unlink()
    with pytest.raises(CannotStart, match=r"holds no model\.safetensors"):
        qwen2.convert(model, tmp_path / "a.gguf")


def test_an_adapter_of_such_a_base_is_written_too(tmp_path: Path) -> None:
    base, adapter = folder(tmp_path / "base"), tmp_path / "adapter"
    adapter.mkdir()
    config = {"peft_type": "LORA", "lora_alpha": 32, "r": 1}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    safetensors(adapter / "adapter_model.safetensors", **{name: ("F32", [1, 2], struct.pack("<2f", 1, 2))})
    (tmp_path / "scratch").mkdir()
    served, _ = qwen2.converted(adapter, base, tmp_path / "scratch")
    assert gguf.is_adapter(served / "adapter.gguf")
    assert b"blk.0.attn_q.weight.lora_a" in (served / "adapter.gguf").read_bytes()
    (adapter / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
    with pytest.raises(CannotStart, match="use_dora"):
        qwen2.convert_adapter(adapter, tmp_path / "a.gguf")
