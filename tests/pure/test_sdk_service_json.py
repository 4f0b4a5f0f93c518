"""The cloud's service JSON as a Service: what maps, what is noted, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from modelworks.kernel.errors import Invalid
from modelworks.sdk.inference import InferenceSpec, container_serving_spec
from modelworks.sdk.service_json import translate

DOCUMENT: dict[str, Any] = {
    "name": "digits",
    "processor": "onnx",
    "model_path": "oss://models/digits/",
    "metadata": {
        "instance": 2,
        "cpu": 2,
        "memory": 4000,
        "workspace_id": "123",
        "rpc": {"keepalive": 60000, "max_queue_size": 10, "worker_threads": 4},
    },
    "cloud": {"computing": {"instance_type": "ecs.c6.large"}},
}


def test_what_has_a_meaning_is_mapped() -> None:
    out = translate(DOCUMENT)
    assert out.name == "digits"
    assert out.spec == {
        "processor": "onnx",
        "model": "oss://models/digits/",
        "replicas": 2,
        "resources": {"cpu": 2, "memory": "4000Mi"},
        "queue": {"size": 10},
        "concurrency": 4,
        "instance_type": "ecs.c6.large",
    }
    assert out.notes == ["metadata.rpc.keepalive has no effect here"]


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"modle_path": "x"}, "modle_path"),
        ({"metadata": {"instances": 1}}, "metadata.instances"),
        ({"metadata": {"rpc": {"keep": 1}}}, "metadata.rpc.keep"),
        ({"metadata": 3}, "metadata"),
        ({"cloud": {"computing": {"type": 1}}}, "cloud.computing.type"),
        ({"containers": []}, "containers"),
        ({"containers": [{"image": "x", "prot": 1}]}, "containers.0.prot"),
        ({"containers": [{"image": "x", "env": ["A=1"]}]}, "containers.0.env.0"),
        ({"containers": [{"image": "x", "health_check": {"pth": "/"}}]}, "containers.0.health_check.pth"),
        ({"storage": [{"nfs": {}}]}, "storage.0"),
        ({"processor": "caffe"}, "processor"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(document: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as caught:
        translate(document)
    assert [field.path for field in caught.value.fields] == [path]


def test_a_container_is_a_command() -> None:
    spec = container_serving_spec(
        "python app.py",
        "python-data",
        source_dir="src",
        port=9000,
        environment_variables={"A": "1"},
        health_check={"path": "/ready", "timeout_seconds": 2},
    )
    out = spec.translation()
    assert out.spec == {
        "processor": "command",
        "environment": "python-data",
        "command": "python app.py",
        "env": {"A": "1"},
        "readiness": {"path": "/ready", "timeout": "2s"},
        "code": "src",
    }
    assert out.notes == ["containers.0.port has no effect here: the server is told its port by $PORT"]


def test_a_health_check_may_be_a_path() -> None:
    out = container_serving_spec("x", "python-data", health_check="/up").translation()
    assert out.spec["readiness"] == {"path": "/up"}


def test_packages_make_the_environment() -> None:
    out = container_serving_spec("x", "python-data", requirements=["fastapi"]).translation()
    assert out.spec["environment"] == {"requirements": ["fastapi"]}


def test_an_image_with_a_registry_is_an_image() -> None:
    out = container_serving_spec("x", "registry.example/app:1").translation()
    assert out.spec["environment"] == {"image": "registry.example/app:1"}


def test_options_may_be_dotted_and_nested() -> None:
    spec = InferenceSpec(processor="onnx")
    spec.add_option("metadata.rpc.max_queue_size", 5).merge_options({"metadata": {"instance": 3}, "metadata.cpu": 1})
    assert spec.to_dict() == {
        "processor": "onnx",
        "metadata": {"rpc": {"max_queue_size": 5}, "instance": 3, "cpu": 1},
    }


def test_specs_are_read_and_written_by_attribute() -> None:
    spec = InferenceSpec(metadata={"instance": 1})
    spec.metadata.instance = 2
    spec.processor = "onnx"
    assert spec.to_dict() == {"metadata": {"instance": 2}, "processor": "onnx"}
    with pytest.raises(AttributeError, match="nothing"):
        _ = spec.nothing


def test_an_option_below_a_value_is_refused() -> None:
    with pytest.raises(Invalid, match="not a mapping"):
        InferenceSpec(processor="onnx").add_option("processor.x", 1)


def test_mounts() -> None:
    spec = InferenceSpec(processor="onnx")
    spec.mount("oss://bucket/model/", "/ml/model")
    assert spec.translation().spec["model"] == "oss://bucket/model/"
