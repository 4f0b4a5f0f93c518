"""Other servers started in a replica: llama.cpp for real, and what is said where one cannot start."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from tests import language_model
from tests.agents import poll

from modelworks.kernel.run import Resources
from modelworks.products.serving.spec import Processor, ServiceSpec
from modelworks.products.serving.templates import template_command

pytestmark = pytest.mark.xdist_group("language_model")
SOURCE = Path(__file__).parents[2] / "src"
TEMPLATES = [processor for processor in Processor if processor.template]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    language_model.gguf()
    return language_model.python_with_llamacpp(tmp_path_factory.mktemp("llamacpp"))


def launcher(python: Path | str, *arguments: str) -> list[str]:
    return [str(python), "-m", "modelworks.engines", *arguments]


def variables(port: int = 0) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], "PYTHONPATH": str(SOURCE), "PORT": str(port), "MW_SERVICE": "chat"}


def refused(*arguments: str, python: Path | str = sys.executable) -> str:
    done = subprocess.run(
        launcher(python, *arguments), env=variables(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 3, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


@contextmanager
def serving(python: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], httpx.Client]]:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        port = trial.getsockname()[1]
    command = launcher(python, "llamacpp", "--model", *arguments)
    with subprocess.Popen(command, env=variables(port), stdout=subprocess.DEVNULL, text=True) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=120) as client:
                poll(lambda: _ready(client))
                yield process, client
        finally:
            process.kill()


def _ready(client: httpx.Client) -> bool:
    try:
        return client.get("/health").status_code == 200
    except httpx.TransportError:
        return False


def test_llamacpp_ends_when_what_it_began_is_answered(python: Path) -> None:
    with serving(python, str(language_model.gguf()), "--", "-c", "2048") as (process, client):
        assert client.get("/v1/models").json()["data"][0]["id"] == "chat"
        assert "llamacpp:requests_processing 0" in client.get("/metrics").text
        body = {"prompt": "Once upon a time", "max_tokens": 100, "ignore_eos": True}
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.post, "/v1/completions", json=body)
            poll(lambda: "llamacpp:requests_processing 1" in client.get("/metrics").text)
            process.send_signal(signal.SIGTERM)
            assert answer.result().json()["usage"]["completion_tokens"] == 100
        assert process.wait(20) == 0


def test_llamacpp_makes_vectors_when_asked(python: Path) -> None:
    with serving(python, str(language_model.gguf()), "--", "--embeddings", "-c", "512") as (_, client):
        answer = client.post("/v1/embeddings", json={"input": ["a cat", "a dog"]}).json()
        assert [len(item["embedding"]) for item in answer["data"]] == [640, 640]


def test_an_adapter_is_laid_over_its_base(python: Path, tmp_path: Path) -> None:
    body = {"prompt": "The capital of France is", "max_tokens": 12, "temperature": 0}
    language_model.write_adapter(python, tmp_path / "adapter.gguf")
    base = str(language_model.gguf())
    with serving(python, base, "--", "-c", "512") as (_, client):
        plain = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    with serving(python, str(tmp_path), "--base", base, "--", "-c", "512") as (_, client):
        assert [adapter["path"] for adapter in client.get("/lora-adapters").json()] == [str(tmp_path / "adapter.gguf")]
        assert client.post("/v1/completions", json=body).json()["choices"][0]["text"] != plain


def test_llamacpp_says_what_it_does_not_find(python: Path, tmp_path: Path) -> None:
    assert f"{tmp_path} holds no .gguf file; it holds nothing" in refused(
        "llamacpp", "--model", str(tmp_path), python=python
    )
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 5))
    assert "not a whole GGUF file" in refused("llamacpp", "--model", str(tmp_path), python=python)
    (tmp_path / "a.gguf").write_bytes(header("llama"))
    assert "llama.cpp cannot serve" in refused("llamacpp", "--model", str(tmp_path), python=python)
    (tmp_path / "b.gguf").write_bytes(header("llama"))
    said = refused("llamacpp", "--model", str(tmp_path), python=python)
    assert "several models: a.gguf, b.gguf; say which: args: [--file, a.gguf]" in said
    assert "unrecognized arguments: --nothing" in refused(
        "llamacpp", "--model", str(tmp_path), "--", "--nothing", python=python
    )


def test_an_adapter_alone_asks_for_its_base(python: Path, tmp_path: Path) -> None:
    (tmp_path / "adapter.gguf").write_bytes(header("gemma3", "adapter"))
    said = refused("llamacpp", "--model", str(tmp_path), python=python)
    assert "LoRA adapter alone (adapter.gguf): give the service base_model" in said
    peft = tmp_path / "peft"
    peft.mkdir()
    (peft / "adapter_config.json").write_text('{"base_model_name_or_path": "Qwen/Qwen2.5-0.5B", "r": 8}')
    assert "trained on Qwen/Qwen2.5-0.5B: give the service base_model" in refused("vllm", "--model", str(peft))
    assert "convert_lora_to_gguf" in refused(
        "llamacpp", "--model", str(peft), "--base", str(language_model.gguf()), python=python
    )


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        ("vllm", "vllm is not installed here: use environment: vllm"),
        ("triton", "tritonserver is not installed here: use image: nvcr.io"),
        ("tfserving", "tensorflow_model_server is not installed here: use image: tensorflow/serving"),
        ("torchserve", "torchserve is not installed here: add torchserve"),
        ("llamacpp", "the environment has no xllamacpp"),
    ],
)
def test_what_is_not_installed_is_said_with_the_remedy(engine: str, said: str, tmp_path: Path) -> None:
    assert said in refused(engine, "--model", str(tmp_path))


def programs(folder: Path) -> Path:
    """Programs by the servers' names that tell what they were given."""
    folder.mkdir(exist_ok=True)
    for name in ("vllm", "tritonserver", "tensorflow_model_server", "torchserve", "llama-server", "java"):
        (folder / name).write_text('#!/bin/sh\nfor a in "$0" "$@"; do echo "[$a]"; done\n')
        (folder / name).chmod(0o755)
    return folder


def started(folder: Path, *arguments: str) -> list[str]:
    own = {"PATH": f"{folder}:{os.environ['PATH']}", "TMPDIR": str(folder)}
    done = subprocess.run(
        launcher(sys.executable, *arguments), env=variables(9123) | own, capture_output=True, text=True, check=False
    )
    return [line[1:-1] for line in done.stdout.splitlines() if line.startswith("[")] or [done.stderr]


def test_one_model_becomes_a_repository_of_one(tmp_path: Path) -> None:
    bin, model = programs(tmp_path / "bin"), tmp_path / "model"
    (model / "1").mkdir(parents=True)
    (model / "config.pbtxt").write_text("")
    told = started(bin, "triton", "--model", str(model), "--", "--log-verbose=1")
    assert told[-1] == "--log-verbose=1"
    assert "--http-port=9123" in told
    repository = Path(next(word for word in told if word.startswith("--model-repository=")).partition("=")[2])
    assert (repository / "chat" / "config.pbtxt").is_file()
    (tmp_path / "repository").mkdir()
    (tmp_path / "repository" / "digits").symlink_to(model)
    told = started(bin, "triton", "--model", str(tmp_path / "repository"))
    assert f"--model-repository={tmp_path / 'repository'}" in told


def test_a_saved_model_becomes_version_one(tmp_path: Path) -> None:
    bin, model = programs(tmp_path / "bin"), tmp_path / "model"
    model.mkdir()
    assert "neither saved_model.pb nor numbered versions" in started(bin, "tfserving", "--model", str(model))[0]
    (model / "saved_model.pb").write_bytes(b"")
    told = started(bin, "tfserving", "--model", str(model))
    base = Path(next(word for word in told if word.startswith("--model_base_path=")).partition("=")[2])
    assert (base / "1" / "saved_model.pb").is_file()
    assert {"--rest_api_port=9123", "--model_name=chat"} <= set(told)


def test_torchserve_is_told_its_addresses_in_a_file(tmp_path: Path) -> None:
    bin = programs(tmp_path / "bin")
    told = started(bin, "torchserve", "--model", str(tmp_path))
    written = Path(told[told.index("--ts-config") + 1]).read_text()
    assert re.search(r"^inference_address=http://127.0.0.1:9123$", written, re.MULTILINE)


TINY = """
import sys
from pathlib import Path
import peft, torch, transformers
folder = Path(sys.argv[1])
config = transformers.GPT2Config(
    vocab_size=64, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=1
)
base = transformers.GPT2LMHeadModel(config)
base.save_pretrained(folder / "base")
(folder / "base" / "vocab.txt").write_text("a")
lora = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["c_attn"], init_lora_weights=False)
adapted = peft.get_peft_model(base, lora).eval()
adapted.save_pretrained(folder / "adapter")
print(round(adapted(torch.arange(8)[None]).logits.sum().item(), 3))
"""
SUM = """
import os, sys
import torch, transformers
assert sys.argv[1] == os.environ["MW_MODEL_DIR"] and os.path.exists(os.path.join(sys.argv[1], "vocab.txt"))
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
print(round(model(torch.arange(8)[None]).logits.sum().item(), 3))
"""


@pytest.mark.timeout(400)  # three processes that import PyTorch
def test_a_merged_adapter_says_what_it_said_over_its_base(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    made = subprocess.run([sys.executable, "-c", TINY, str(tmp_path)], capture_output=True, text=True, check=True)
    adapter, base = str(tmp_path / "adapter"), str(tmp_path / "base")
    own = {"MW_MODEL_DIR": adapter, "MW_BASE_MODEL_DIR": base, "TMPDIR": str(tmp_path), "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "modelworks.engines.merge", "--", sys.executable, "-c", SUM, adapter]
    done = subprocess.run(command, env=variables() | own, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == made.stdout.splitlines()[-1]
    alone = variables() | {"MW_MODEL_DIR": adapter}
    done = subprocess.run(command, env=alone, capture_output=True, text=True, check=False)
    assert (done.returncode, "give the service base_model" in done.stderr) == (3, True)


def test_what_is_no_adapter_is_not_merged(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "modelworks.engines.merge", "--", "echo", str(tmp_path)]
    own = variables() | {"MW_MODEL_DIR": str(tmp_path)}
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == f"{tmp_path}\n"


@pytest.mark.parametrize("processor", TEMPLATES)
def test_in_an_image_a_shell_puts_in_the_port(processor: Processor, tmp_path: Path) -> None:
    bin = programs(tmp_path / "bin")
    document = {"processor": str(processor), "model": "chat:1", "image": "registry.example/it:1"}
    spec = ServiceSpec.parse({**document, "args": ["--note", "it's $HOME"]}, at="spec")
    shell = template_command(spec, "chat", Resources(), contained=True).command
    own = {"PATH": f"{bin}:/usr/bin:/bin", "PORT": "9123", "TMPDIR": str(tmp_path)}
    done = subprocess.run(shell, env=own, capture_output=True, text=True, check=False)
    words = done.stdout.splitlines()
    assert words[-2:] == ["[--note]", "[it's $HOME]"], done.stderr
    if processor is Processor.TORCHSERVE:
        written = (tmp_path / "config.properties").read_text().splitlines()
        assert "inference_address=http://0.0.0.0:9123" in written
    else:
        assert any("9123" in word for word in words)


def header(architecture: str, kind: str = "model") -> bytes:
    """A GGUF file of no tensors."""
    pairs = {"general.architecture": architecture, "general.type": kind}
    packed = b"".join(_text(key) + struct.pack("<I", 8) + _text(value) for key, value in pairs.items())
    return b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + packed


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()
