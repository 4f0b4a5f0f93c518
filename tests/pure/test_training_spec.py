"""What a manifest of a training job may say, and how it is told what it may not."""

from __future__ import annotations

from typing import Any

import pytest

from modelworks.kernel.errors import Invalid
from modelworks.products.training.resolve import unread
from modelworks.products.training.spec import TrainingJobSpec


def test_the_smallest_job() -> None:
    spec = TrainingJobSpec.parse({"command": "python train.py"}, at="spec")
    assert (spec.replicas, spec.retries, spec.grace_period, spec.time_limit) == (1, 0, 30.0, None)


def test_quantities_survive_being_stored() -> None:
    spec = TrainingJobSpec.parse(
        {"command": ["python", "t.py"], "resources": {"cpu": "500m", "memory": "2Gi"}, "time_limit": "1h"}
    )
    assert TrainingJobSpec.parse(spec.dump()) == spec
    assert spec.resources is not None
    assert spec.resources.cpu == 500


def test_numbers_as_variables() -> None:
    spec = TrainingJobSpec.parse({"command": "x", "env": {"EPOCHS": 3, "DEBUG": True, "LR": 0.1}})
    assert spec.env == {"EPOCHS": "3", "DEBUG": "true", "LR": "0.1"}


@pytest.mark.parametrize(
    ("change", "path", "words"),
    [
        ({"command": ""}, "spec.command", "command is empty"),
        ({"command": "   "}, "spec.command", "command is empty"),
        ({"command": []}, "spec.command", "command is empty"),
        ({"command": [""]}, "spec.command", "command is empty"),
        ({"retries": 101}, "spec.retries", "less than or equal to 100"),
        ({"retries": -1}, "spec.retries", "greater than or equal to 0"),
        ({"replicas": 0}, "spec.replicas", "greater than or equal to 1"),
        ({"env": {"1A": "x"}}, "spec.env", "not a variable name"),
        ({"inputs": {"a b": "s3://x/"}}, "spec.inputs", "not a channel name"),
        ({"inputs": {"output": "s3://x/"}}, "spec.inputs", "/mnt/output"),
        ({"hyperparameters": {"a b": 1}}, "spec.hyperparameters", "not a hyperparameter"),
        ({"instance_type": "local.small", "resources": {"cpu": 1}}, "spec", "not both"),
        ({"time_limit": "soon"}, "spec.time_limit", "not a duration"),
        ({"time_limit": "0s"}, "spec.time_limit", "greater than or equal to 1"),
        ({"resources": {"memory": "lots"}}, "spec.resources.memory", "not an amount of memory"),
        ({"volumes": [{"name": "v", "mount_path": "scratch"}]}, "spec.volumes.0.mount_path", "not an absolute path"),
        ({"volumes": [{"name": "v", "mount_path": "/etc/x"}]}, "spec.volumes.0.mount_path", "belongs to the system"),
        ({"volumes": [{"name": "v", "mount_path": "/mnt/../etc"}]}, "spec.volumes.0.mount_path", "absolute path"),
        ({"volumes": [{"name": "v", "mount_path": "/mnt/output"}]}, "spec", "/mnt/output"),
        ({"comand": "x"}, "spec.comand", "unknown field"),
    ],
)
def test_what_is_refused(change: dict[str, Any], path: str, words: str) -> None:
    with pytest.raises(Invalid) as caught:
        TrainingJobSpec.parse({"command": "python t.py"} | change, at="spec")
    assert any(field.path.startswith(path) and words in field.message for field in caught.value.fields), caught.value


def test_a_spec_is_stored_and_read_again() -> None:
    roles = [{"name": "master"}, {"name": "worker", "replicas": 2, "resources": {"cpu": 2}}]
    for fields in (
        {"roles": roles},
        {"replicas": {"min": 1, "max": 3}},
        {"spot": {}, "mounts": {"/data/x": "s3://b/"}},
    ):
        spec = TrainingJobSpec.parse({"command": "x", **fields})
        assert TrainingJobSpec.parse(spec.dump()) == spec
    with pytest.raises(Invalid, match="not both"):
        TrainingJobSpec.parse({"command": "x", "roles": roles, "replicas": 2})
    with pytest.raises(Invalid, match="never end"):
        TrainingJobSpec.parse({"command": "x", "roles": [{"name": "ps", "lasting": True}]})


@pytest.mark.parametrize(
    ("fields", "noted"),
    [
        ({"command": "python train.py"}, True),
        ({"command": "python train.py", "code": "s3://mine/code.tar.gz"}, True),  # what is in it is not known
        ({"command": "python train.py $PAI_USER_ARGS", "code": "s3://mine/code.tar.gz"}, False),
        ({"command": ["python", "train.py", "--lr", "$(PAI_HPS_LR)"]}, False),
        ({"command": "python train.py", "env": {"RATE": "$(PAI_HPS_LR)"}}, False),
        ({"command": "true", "roles": [{"name": "worker", "command": "python t.py $PAI_USER_ARGS"}]}, False),
        ({"command": "python train.py", "hyperparameters": {}}, False),
    ],
)
def test_hyperparameters_that_nothing_is_seen_to_take_are_noted(fields: dict[str, Any], noted: bool) -> None:
    notes = unread(TrainingJobSpec.parse({"hyperparameters": {"lr": 0.1}, **fields}, at="spec"))
    assert bool(notes) is noted
    assert all(("unless the code reads them" in note) is ("code" in fields) for note in notes)
