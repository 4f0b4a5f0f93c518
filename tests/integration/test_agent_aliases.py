"""A folder of the store that a run sees in itself, under its own name."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.agents import run_spec, wait_ended

from modelworks.agent.inprocess import InProcessAgent
from modelworks.home import Home
from modelworks.kernel.run import Input
from modelworks.objectstore.client import ObjectClient
from modelworks.objectstore.credentials import Credentials
from modelworks.objectstore.uri import ObjectUri
from modelworks.runtime import sandbox
from modelworks.runtime.local import kill_all


@pytest.fixture
def objects(store: Credentials) -> ObjectClient:
    return ObjectClient(store)


@pytest.fixture(params=["sandbox", "plain"])
def agent(
    request: pytest.FixtureRequest, home: Home, agent_store: Credentials, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InProcessAgent]:
    if request.param == "plain":
        monkeypatch.setenv("MW_ISOLATION", "off")
    sandbox.probe.cache_clear()
    home.secrets.mkdir()
    (home.secrets / "agent.json").write_text(agent_store.model_dump_json())
    with InProcessAgent(home) as running:
        yield running
        kill_all(home, grace=0.0)
    sandbox.probe.cache_clear()


def test_a_folder_is_in_itself_under_its_name(agent: InProcessAgent, objects: ObjectClient, bucket: str) -> None:
    folder = ObjectUri(bucket, "models/Qwen/")
    objects.put(folder / "config.json", b"config ")
    objects.put(folder / "onnx/model", b"weights ")
    paths = ("/mnt/model", "/ml/input/data/model", "/mnt/model/Qwen")
    item = Input(channel="model", uri=str(folder), paths=paths)
    command = "cat /mnt/model/config.json /mnt/model/onnx/model /mnt/model/Qwen/config.json /mnt/model/Qwen/onnx/model"
    run = run_spec(0, "sh", "-c", f"{command}; ls /ml/input/data/model", inputs=(item,))
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert agent.log(run.key) == b"config weights config weights config.json\nonnx\n", seen


def test_a_folder_that_has_its_own_name_is_as_it_is(agent: InProcessAgent, objects: ObjectClient, bucket: str) -> None:
    objects.put(ObjectUri(bucket, "train/train/a.txt"), b"deeper")
    objects.put(ObjectUri(bucket, "train/b.txt"), b"beside")
    item = Input(channel="data", uri=f"s3://{bucket}/train/", paths=("/mnt/data", "/mnt/data/train"))
    run = run_spec(0, "sh", "-c", "cat /mnt/data/train/a.txt /mnt/data/b.txt; ls /mnt/data/train", inputs=(item,))
    agent.ensure(run)
    seen = wait_ended(agent, run.key)
    assert agent.log(run.key) == b"deeperbesidea.txt\n", seen
