"""What makes another revision of a service, and what does not."""

from __future__ import annotations

from typing import Any

import pytest

from modelworks.products.serving import revisions
from modelworks.products.serving.revisions import OPERATIONAL, operated, revision
from modelworks.products.serving.spec import ServiceSpec

SPEC: dict[str, Any] = {"processor": "onnx", "model": "digits:1"}
FACTS: dict[str, Any] = {
    "resources": {"cpu": "1000m", "memory": 1 << 30},
    "price_per_hour": 0.05,
    "instance_type": "local.small",
    "environment": {"digest": "e" * 64, "name": "default"},
    "model": {"uri": "s3://m/1/", "digest": "d" * 64, "version": 1},
}


def of(spec: dict[str, Any] | None = None, facts: dict[str, Any] | None = None) -> str:
    return revision(ServiceSpec.parse(SPEC | (spec or {})), FACTS | (facts or {}))


def test_it_is_stable_across_storage() -> None:
    spec = ServiceSpec.parse(SPEC)
    assert revision(ServiceSpec.parse(spec.dump()), FACTS) == of()
    assert len(of()) == 12
    assert set(of()) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "spec",
    [
        {"replicas": 5},
        {"stopped": True},
        {"concurrency": 2},
        {"queue": {"size": 1, "timeout": "1s"}},
        {"model": "digits@prod"},
    ],
)
def test_what_replaces_no_process(spec: dict[str, Any]) -> None:
    assert of(spec) == of()


def test_every_field_is_the_revisions_or_operational() -> None:
    lists = (revisions._OF_THE_SPEC, revisions._OF_THE_SPEC_WHEN_GIVEN, revisions._BY_FACTS, OPERATIONAL)
    assert sorted(name for names in lists for name in names) == sorted(ServiceSpec.model_fields)


def test_a_rollback_leaves_what_is_operated_as_it_is() -> None:
    current = SPEC | {"alerts": {"p99": "2s"}, "replicas": 3, "env": {"A": "2"}}
    assert operated(SPEC | {"env": {"A": "1"}, "alerts": {"p99": "1s"}}, current) == current | {"env": {"A": "1"}}


def test_an_alias_that_moves_to_the_same_bytes() -> None:
    assert of(facts={"model": {"uri": "s3://m/2/", "digest": "d" * 64, "version": 2}}) == of()
    assert of(facts={"environment": {"digest": "e" * 64, "name": "renamed"}}) == of()


@pytest.mark.parametrize(
    ("spec", "facts"),
    [
        ({"env": {"A": "1"}}, {}),
        ({"readiness": {"path": "/v2/health/ready"}}, {}),
        ({}, {"model": {"uri": "s3://m/1/", "digest": "c" * 64}}),
        ({}, {"environment": {"digest": "f" * 64}}),
        ({}, {"resources": {"cpu": "2000m", "memory": 1 << 30}}),
        ({"mounts": {"/mnt/data": "s3://d/"}}, {"mounts": {"/mnt/data": "s3://d/"}}),
        ({"volumes": [{"name": "v", "mount_path": "/mnt/v"}]}, {"volumes": {"v": "/x"}}),
        ({"processor": "python", "entry": "p.py:P", "code": "s3://c/a.tar.gz"}, {"code": "s3://c/a.tar.gz"}),
    ],
)
def test_what_does(spec: dict[str, Any], facts: dict[str, Any]) -> None:
    assert of(spec, facts) != of()
