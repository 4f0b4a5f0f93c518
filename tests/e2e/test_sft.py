"""examples/sft: a tiny language model, fine-tuned by a job of two processes, merged, registered and served.

Before, it does not answer the questions of its data; afterwards it does, to the unmodified OpenAI client.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests import leftovers
from tests.cli_platform import Mw, fresh
from tests.documents import ROOT

from modelworks.sdk.client import Client

pytestmark = [pytest.mark.timeout(400), pytest.mark.xdist_group("sft")]
openai = pytest.importorskip("openai")
for needed in ("torch", "transformers", "peft", "datasets"):
    pytest.importorskip(needed)

EXAMPLE = ROOT / "examples" / "sft"
TALKS = [json.loads(line)["messages"] for line in (EXAMPLE / "data" / "qa.jsonl").read_text().splitlines()]
ASKED = TALKS[::4]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sft") / "base"
    command = [sys.executable, str(EXAMPLE / "make_model.py"), "--output", str(folder)]
    done = subprocess.run(
        command, env=os.environ | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def mw() -> Iterator[Mw]:
    with fresh() as one:
        yield one
        one.ok("down", "--grace", "2")
        assert leftovers.of_platform(one.home) == []


def service(name: str, folder: Path, **spec: Any) -> str:
    """The example's manifest, with another name and model."""
    manifest = yaml.safe_load((EXAMPLE / "service.yaml").read_text())
    manifest["metadata"]["name"] = name
    manifest["spec"] |= spec
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(manifest))
    return str(path)


def answered(mw: Mw, name: str) -> set[str]:
    """The answers that a service gives to the letter."""
    document = json.loads(mw.home.client.read_text())
    platform = Client(document["url"], document["api_key"])
    url, token = platform.service_endpoint(name), platform.service_token(name)
    platform.close()
    right = set()
    with openai.OpenAI(base_url=f"{url}/v1", api_key=token) as chat:
        for question, answer in ASKED:
            said = chat.chat.completions.create(model=name, messages=[question], temperature=0, max_tokens=64)
            if (said.choices[0].message.content or "").strip() == answer["content"]:
                right.add(answer["content"])
    return right


def test_a_model_that_is_fine_tuned_answers(mw: Mw, base: Path, tmp_path: Path) -> None:
    mw.ok("bucket", "create", "sft")
    mw.ok("bucket", "upload", str(base), "s3://sft/base/")
    mw.ok("bucket", "upload", str(EXAMPLE / "data" / "qa.jsonl"), "s3://sft/data/")
    before = service("before", tmp_path, model="s3://sft/base/")
    mw.ok("service", "create", "-f", before)  # starts beside the job

    log = mw.ok("job", "submit", "-f", str(EXAMPLE / "job.yaml"), "--follow")
    assert f"{len(TALKS)} conversations" in log
    mw.ok("model", "register", "answers", "--job", "sft")
    mw.ok("service", "create", "-f", str(EXAMPLE / "service.yaml"), "--wait")
    mw.ok("service", "create", "-f", before, "--wait")

    assert len(answered(mw, "before")) <= 2
    right = answered(mw, "answers")
    assert len(right) >= 0.9 * len(ASKED), {answer["content"] for _, answer in ASKED} - right
