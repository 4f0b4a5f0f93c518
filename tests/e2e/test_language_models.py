"""A language model served by llama.cpp, called with the unmodified OpenAI client through the whole platform."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import yaml
from tests import language_model, leftovers
from tests.agents import poll
from tests.cli_platform import Mw, fresh

from modelworks.sdk.client import Client

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("language_model")]
openai = pytest.importorskip("openai")

SPEC = {
    "processor": "llamacpp",
    "model": "s3://models/gemma/",
    "resources": {"cpu": 1, "memory": "2Gi"},
    "args": ["--ctx-size", "2048", "--parallel", "2"],
    "grace_period": "5s",
}


@pytest.fixture(scope="module")
def mw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mw]:
    folder = language_model.gguf()
    with fresh() as one:
        one.ok("bucket", "create", "models")
        one.ok("bucket", "upload", str(next(folder.glob("*.gguf"))), "s3://models/gemma/")
        manifest = tmp_path_factory.mktemp("chat") / "chat.yaml"
        manifest.write_text(yaml.safe_dump({"kind": "Service", "metadata": {"name": "chat"}, "spec": SPEC}))
        one.ok("service", "create", "-f", str(manifest), "--wait")
        yield one
        one.ok("down", "--grace", "5")
        assert leftovers.of_platform(one.home) == []


@pytest.fixture(scope="module")
def chat(mw: Mw) -> Iterator[openai.OpenAI]:
    document = json.loads(mw.home.client.read_text())
    client = Client(document["url"], document["api_key"])
    url, token = client.service_endpoint("chat"), client.service_token("chat")
    client.close()
    with openai.OpenAI(base_url=f"{url}/v1", api_key=token) as one:
        yield one


def test_models_and_completions(chat: openai.OpenAI) -> None:
    assert [model.id for model in chat.models.list()] == ["chat"]
    answer = chat.completions.create(model="chat", prompt="The capital of France is", max_tokens=8, temperature=0)
    assert answer.usage.completion_tokens == 8
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].text.strip()


def test_chat_streams_and_counts(chat: openai.OpenAI) -> None:
    chunks = list(
        chat.chat.completions.create(
            model="chat",
            messages=[{"role": "user", "content": "Say something."}],
            max_tokens=16,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True},
        )
    )
    assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 4
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 16


def test_what_the_engine_says_of_itself_is_seen(chat: openai.OpenAI, mw: Mw) -> None:
    def seen() -> dict[str, float]:
        explained = json.loads(mw.ok("service", "explain", "chat", "--json"))
        return dict(explained["replicas"][0]["usage"]) if explained["replicas"] else {}

    poll(lambda: {"running", "waiting", "batch_mean"} <= set(seen()), timeout=60)
    enough = threading.Event()

    def talk() -> None:
        while not enough.is_set():  # the engine is asked now and then: one answer may be over by then
            chat.completions.create(model="chat", prompt="Once", max_tokens=200, extra_body={"ignore_eos": True})

    with ThreadPoolExecutor(1) as talking:
        talked = talking.submit(talk)
        try:
            poll(lambda: talked.done() or (seen().get("tokens_per_second", 0.0) > 0), timeout=120)
            poll(lambda: talked.done() or seen().get("running") == 1.0, timeout=120)
            explained = mw.ok("service", "explain", "chat")
        finally:
            enough.set()
        talked.result()
    assert "requests being computed" in explained
    document = json.loads(mw.home.client.read_text())
    headers = {"Authorization": f"Bearer {document['api_key']}"}
    text = httpx.get(f"{document['url']}/api/v1/metrics", headers=headers, trust_env=False).raise_for_status().text
    assert 'mw_engine_requests_running{process="controller",service="chat",replica="' in text


def test_a_refusal_is_the_clients_own_error(chat: openai.OpenAI, mw: Mw) -> None:
    with pytest.raises(openai.BadRequestError, match="messages"):
        chat.chat.completions.create(model="chat", messages=None)  # type: ignore[arg-type]
    with openai.OpenAI(base_url=chat.base_url, api_key="wrong") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.models.list()


def test_what_cannot_be_served_says_why(mw: Mw, tmp_path: Path) -> None:
    spec = SPEC | {"args": ["--nothing"], "resources": {"cpu": "100m", "memory": "512Mi"}}
    (tmp_path / "wrong.yaml").write_text(
        yaml.safe_dump({"kind": "Service", "metadata": {"name": "wrong"}, "spec": spec})
    )
    failed = mw("service", "create", "-f", str(tmp_path / "wrong.yaml"), "--wait")
    assert failed.returncode == 6
    assert "error: args: unrecognized arguments: --nothing; known are --batch-size" in failed.stderr
    mw.ok("service", "delete", "wrong")
