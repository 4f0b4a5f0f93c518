"""The paths of a job's channels."""

from __future__ import annotations

from typing import Any

import pytest

from modelworks.products.training.channels import places
from modelworks.products.training.spec import TrainingJobSpec

QWEN = "oss://mine/models/Qwen2.5-7B/"


def of(channel: str, uri: str, **spec: Any) -> tuple[str, ...]:
    return places(TrainingJobSpec.parse({"command": "true", "inputs": {channel: uri}, **spec}, at="spec"), channel)


@pytest.mark.parametrize(
    ("channel", "uri", "spec", "named"),
    [
        ("model", QWEN, {}, "/mnt/model/Qwen2.5-7B"),
        ("base_model", QWEN.rstrip("/"), {}, "/mnt/base_model/Qwen2.5-7B"),
        ("model", "s3://mine/", {}, None),  # a whole bucket has no name among folders
        ("model", QWEN, {"mounts": {"/mnt/model/Qwen2.5-7B": "s3://mine/other/"}}, None),
        ("model", f"s3://mine/models/mlp/{'3c' * 16}/", {}, None),  # by its content: nobody's name for it
        ("data", "s3://mine/flowers/", {}, None),  # the folder would seem to be another class
        ("data", "s3://mine/flowers/", {"command": "ls /mnt/data/flowers/*"}, "/mnt/data/flowers"),
        ("data", "s3://mine/flowers/", {"env": {"ROWS": "/mnt/data/flowers"}}, "/mnt/data/flowers"),
        ("data", "s3://mine/flowers/", {"hyperparameters": {"rows": "/mnt/data/flowers"}}, "/mnt/data/flowers"),
        (
            "data",
            "s3://mine/flowers/",
            {"roles": [{"name": "worker", "command": ["python", "t.py", "/mnt/data/flowers"]}]},
            "/mnt/data/flowers",
        ),
    ],
)
def test_a_folder_is_also_there_under_its_name(channel: str, uri: str, spec: dict[str, Any], named: str | None) -> None:
    usual = (f"/mnt/{channel}", f"/ml/input/data/{channel}")
    assert of(channel, uri, **spec) == ((*usual, named) if named else usual)
