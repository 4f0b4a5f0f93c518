"""Specs reject what they do not know, with the path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelworks.kernel.errors import Invalid
from modelworks.kernel.resource import Manifest, check_name
from modelworks.kernel.run import Resources, RunKey, RunSpec
from modelworks.kernel.spec import changed_paths
from modelworks.products.training.spec import TrainingJobSpec

_json = st.recursive(
    st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=2),
    lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=8,
)
_mappings = st.dictionaries(st.sampled_from("abc"), _json, max_size=3)


def test_every_wrong_field_is_named_with_its_path() -> None:
    with pytest.raises(Invalid) as caught:
        Manifest.parse({"kind": "Bucket", "metadata": {"name": "UPPER", "colour": 1}, "speck": {}}, at="manifests.0")
    paths = {field.path: field.message for field in caught.value.fields}
    assert paths["manifests.0.speck"] == "unknown field; did you mean spec?"
    assert paths["manifests.0.metadata.colour"].startswith("unknown field")
    assert "lower-case" in paths["manifests.0.metadata.name"]


@pytest.mark.parametrize(
    ("spec", "path", "message"),
    [
        ({"command": 5}, "spec.command", "Input should be text or a list"),
        ({"command": "x", "environment": 3}, "spec.environment", "Input should be text or a mapping"),
        (
            {"command": "x", "environment": {"packages": []}},
            "spec.environment.packages",
            "unknown field; the fields are requirements, python, image, description",
        ),
        (
            {"command": "x", "environment": {"requirements": "numpy"}},
            "spec.environment.requirements",
            "Input should be a list",
        ),
        ({"command": "x", "resources": {"gpus": 1}}, "spec.resources.gpus", "unknown field; did you mean gpu?"),
        ({"command": "x", "instance-type": "y"}, "spec.instance-type", "unknown field; did you mean instance_type?"),
        ({"command": "x", "volumes": [{"mount": "/x"}]}, "spec.volumes.0.name", "Field required"),
        ({"command": "x", "env": "A=1"}, "spec.env", "Input should be a mapping"),
    ],
)
def test_a_wrong_field_is_told_in_the_words_of_the_manifest(spec: dict[str, object], path: str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        TrainingJobSpec.parse(spec, at="spec")
    told = {field.path: field.message for field in caught.value.fields}
    assert told[path] == message
    assert len(told) == len(caught.value.fields)
    assert caught.value.detail.startswith(f"{len(told)} field")
    assert not [found for found in told if "Spec" in found or "[" in found or "constrained" in found]


@pytest.mark.parametrize("name", ["a", "a-b", "digits.v2", "0", "a" * 63])
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a/b", "..", "a..b", "a" * 64, "a\n", "ü", "a\x00"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(ValueError, match="not a valid name"):
        check_name(name)


@given(_mappings)
def test_nothing_changes_against_itself(data: dict[str, object]) -> None:
    assert changed_paths(data, data) == []


@given(_mappings, _mappings)
def test_changes_name_exactly_the_leaves_that_differ(before: dict[str, object], after: dict[str, object]) -> None:
    changes = changed_paths(before, after)
    assert bool(changes) == any(before.get(k) != after.get(k) for k in {*before, *after})
    assert [(p, a, b) for p, b, a in changed_paths(after, before)] == changes


def test_resources_survive_their_dump() -> None:
    for cpu in ("1m", "250m", "1", "64"):
        resources = Resources.parse({"cpu": cpu, "memory": "2Gi"})
        assert Resources.parse(resources.dump()) == resources


def test_run_keys() -> None:
    key = RunKey("0a1b2c3d", "a1", 3, 0)
    assert RunKey.parse(str(key)) == key
    for text in ("", "a/b/c/d", "0a1b2c3d/a1/0", "../../../etc", "0a1b2c3d/a1/0/0/0", "0a1b2c3d/a1/-1/0"):
        with pytest.raises(ValueError, match="not a run key"):
            RunKey.parse(text)


def test_a_run_spec_survives_json() -> None:
    run = RunSpec(key="0a1b2c3d/a1/0/0", workspace="default", kind="TrainingJob", name="x", command=("python", "t.py"))
    assert RunSpec.model_validate_json(run.model_dump_json()).key == run.key
    assert RunSpec.parse(run.dump()) == run
