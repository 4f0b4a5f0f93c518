"""The tutorial of fine-tuning, typed as printed: a tiny model is tuned by a job that is preempted, and served.

Before, it does not answer the questions of its data; afterwards it does, to the unmodified OpenAI client.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests import leftovers
from tests.cli_platform import fresh
from tests.documents import DOCS
from tests.typed_pages import as_cloned, typed

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("sft")]
for needed in ("openai", "torch", "transformers", "peft", "datasets"):
    pytest.importorskip(needed)


def test_the_tutorial_of_fine_tuning(tmp_path: Path) -> None:
    as_cloned(tmp_path)
    with fresh() as mw:
        said = typed(DOCS / "tutorial-sft.md", tmp_path, mw)
        attempts = json.loads(mw.ok("job", "get", "sft", "--json"))["status"]["attempts"]
        # What is no checkpoint of the module is not uploaded a second time.
        listed = json.loads(mw.ok("bucket", "ls", "s3://mw-default/", "--json"))
        kept = [one["key"] for one in listed["items"]]
        mw.ok("down", "--grace", "2")
        assert leftovers.of_platform(mw.home) == []
    assert [one.get("reason") for one in attempts] == ["Preempted", "Completed"], attempts
    assert re.search(r"goes on from .*step-\d+\n", said)
    right = {name: int(count) for name, count in re.findall(r"^(\w+): (\d+) of 21 right$", said, re.MULTILINE)}
    assert right["before"] <= 2, said[-3000:]
    assert right["answers"] >= 19, said[-3000:]
    assert any("/checkpoints/" in path and path.endswith("adapter_model.safetensors") for path in kept), kept
    assert not [path for path in kept if "/trainer/" in path]
