"""The cloud's service JSON as a Service: what maps, what is noted, what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from modelworks.kernel.errors import Invalid
from modelworks.products.serving.spec import Processor, ServiceSpec
from modelworks.sdk.inference import InferenceSpec, container_serving_spec
from modelworks.sdk.service_json import translate
from modelworks.sdk.service_processors import OWN_SERVER, PROCESSORS

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
        "keepalive": 60.0,
        "instance_type": "ecs.c6.large",
    }
    assert out.notes == []


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
        ({"storage": [{"nfs": {}}]}, "storage.0.nfs"),
        ({"storage": [{"mount_pth": "/mnt/data", "volume": "v", "mount_path": "/mnt/v"}]}, "storage.0.mount_pth"),
        ({"storage": [{"mount_path": "/mnt/data", "oss": {"path": "oss://b/d", "pth": 1}}]}, "storage.0.oss.pth"),
        ({"storage": [{"oss": {"path": "oss://b/d"}}]}, "storage.0.mount_path"),
        ({"storage": [{"mount_path": "/mnt/data"}]}, "storage.0"),
        ({"storage": [{"mount_path": "/mnt/data", "oss": {"path": "data"}}]}, "storage.0.oss.path"),
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
        "port": 9000,
        "env": {"A": "1"},
        "readiness": {"path": "/ready", "timeout": "2s"},
        "code": "src",
    }
    assert out.notes == []


def test_a_health_check_may_be_a_path() -> None:
    out = container_serving_spec("x", "python-data", health_check="/up").translation()
    assert out.spec["readiness"] == {"path": "/up"}

    out = container_serving_spec("x", "python-data", health_check={"tcp_socket": {"port": 1}}).translation()
    assert (out.spec["readiness"], out.notes) == ({"path": "/", "status": "any"}, [])


def test_packages_make_the_environment() -> None:
    out = container_serving_spec("x", "python-data", requirements=["fastapi"]).translation()
    assert out.spec["environment"] == {"requirements": ["fastapi"]}


def test_an_image_with_a_registry_is_an_image() -> None:
    out = container_serving_spec("x", "registry.example/app:1").translation()
    assert (out.spec["processor"], out.spec["image"]) == ("image", "registry.example/app:1")
    known = container_serving_spec("x", "registry.example/pai/pytorch:2.1-cpu").translation()
    assert (known.spec["processor"], known.spec["environment"]) == (
        "command", {"image": "registry.example/pai/pytorch:2.1-cpu"},
    )  # fmt: skip


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


def test_a_folder_is_mounted_wherever_it_is_asked_for() -> None:
    data = {"path": "oss://bucket/data", "endpoint": "oss.example", "readOnly": True}
    out = translate(
        {
            "containers": [{"image": "python-data", "command": "python app.py"}],
            "storage": [
                {"mount_path": "/mnt/data/", "oss": data, "properties": {"resource_type": "model"}},
                {"mount_path": "/mnt/model", "oss": {"path": "oss://bucket/model/"}},
                {"mount_path": "/ml/model", "oss": {"path": "oss://bucket/model"}},
            ],
        }
    )
    # What a command reads at /ml/model is there, too.
    assert out.spec["mounts"] == {"/mnt/data": "oss://bucket/data/", "/ml/model": "oss://bucket/model/"}
    assert out.spec["model"] == "oss://bucket/model/"
    assert out.notes == []
    ServiceSpec.parse(out.spec, at="spec")
    written = translate({"storage": [{"mount_path": "/mnt/data", "oss": {**data, "readOnly": False}}]})
    assert written.notes == ["storage.0.oss.readOnly has no effect here: it is read-only; a volume can be written"]


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"storage": [("/mnt/model", "oss://b/a"), ("/eas/workspace/model", "oss://b/c")]}, "storage.1.oss.path"),
        ({"storage": [("/mnt/model", "oss://b/a")], "model_path": "oss://b/c"}, "model_path"),
        ({"model_path": "oss://b/c", "storage": [("/model", "oss://b/a")]}, "storage.0.oss.path"),
        ({"storage": [("/ml/usercode", "oss://b/a")], "processor_path": "oss://b/c"}, "processor_path"),
        ({"storage": [("/mnt/data", "oss://b/a"), ("/mnt/data/", "oss://b/c")]}, "storage.1.mount_path"),
    ],
)
def test_nothing_is_mounted_over_something_else_in_silence(document: dict[str, Any], path: str) -> None:
    mounts = [{"mount_path": where, "oss": {"path": uri}} for where, uri in document["storage"]]
    with pytest.raises(Invalid) as caught:
        translate(document | {"storage": mounts})
    assert [field.path for field in caught.value.fields] == [path]


@pytest.mark.parametrize(
    "document",
    [
        {"autoscaler": {"min": 1, "max": 5, "strategies": {"qps": 10, "cpu": 50}}},
        {"autoscaler.min": 1, "autoscaler.max": 5, "autoscaler.strategies": {"qps": 10, "cpu": 0.5}},
        {
            "autoscaler": {
                "min": 1,
                "max": 5,
                "scaleStrategies": [
                    {"metricName": "qps", "threshold": 10},
                    {"metricName": "cpu", "threshold": 50, "service": "other"},
                ],
            }
        },
        {
            "auto_scale": {
                "min_replica": 1,
                "max_replica": 5,
                "metrics": [{"type": "QPS", "target": "10"}, {"type": "CPU", "target": 50}],
            }
        },
        {
            "metadata.auto_scale.metrics": [{"type": "QPS", "target": 10}, {"type": "CPU", "target": 50}],
            "metadata.min_replica": 1,
            "metadata.max_replica": 5,
        },
    ],
)
def test_every_dialect_of_scaling_is_one_block(document: dict[str, Any]) -> None:
    out = translate({"processor": "onnx", "model_path": "oss://models/digits/", **document})
    assert out.spec["autoscaling"] == {"min": 1, "max": 5, "metrics": {"qps": 10.0, "cpu": 0.5}}
    ServiceSpec.parse(out.spec, at="spec")


def test_behaviour_and_schedules() -> None:
    out = translate(
        {
            "metadata": {"instance": 2},
            "autoscaler": {
                "min": 0,
                "max": 9,
                "scaleStrategies": [{"metricName": "concurrency", "threshold": 4}],
                "behavior": {
                    "scaleUp": {"stabilizationWindowSeconds": 0},
                    "scaleDown": {"stabilizationWindowSeconds": 120},
                    "onZero": {"scaleDownGracePeriodSeconds": 600, "scaleUpActivationReplicas": 2},
                },
            },
            "ScaleJobs": [
                {"Name": "Every_Morning", "Schedule": "0 0 8 * * *", "TargetSize": 5, "TimeZone": "Asia/Shanghai"}
            ],
            "ExcludeDates": ["2026-10-01"],
        }
    )
    scaling = out.spec["autoscaling"]
    assert scaling["schedules"] == [
        {"name": "every-morning", "schedule": "0 0 8 * * *", "replicas": 5, "timezone": "Asia/Shanghai"}
    ]
    parsed = ServiceSpec.parse({**out.spec, "processor": "onnx", "model": "digits"}, at="spec").autoscaling
    assert parsed is not None
    assert (parsed.min, parsed.max, parsed.initial, parsed.prewarm, parsed.idle) == (0, 9, 2, 2, 600)
    assert (parsed.scale_in_stabilization, parsed.metrics.concurrency) == (120, 4)
    assert [str(day) for day in parsed.exclude_dates] == ["2026-10-01"]


def test_a_schedule_alone_scales_between_one_and_its_target() -> None:
    out = translate({"ScaleJobs": [{"Name": "up", "Schedule": "0 8 * * *", "TargetSize": 4}]})
    assert (out.spec["autoscaling"]["min"], out.spec["autoscaling"]["max"]) == (1, 4)


def test_batching_is_off_until_it_is_switched_on() -> None:
    rpc = {"batching": True, "max_batch_size": 8}
    on = translate({"processor": "onnx", "metadata": {"rpc": rpc}})
    assert on.spec["batching"] == {"max_batch_size": 8, "max_batch_delay_ms": 50}
    off = translate({"processor": "onnx", "metadata": {"rpc": {"max_batch_size": 8}}})
    assert "batching" not in off.spec
    assert off.notes == ["metadata.rpc.max_batch_size has no effect here: metadata.rpc.batching is not true"]
    other = translate({"metadata": {"rpc": rpc}, "processor": "vllm"})
    assert "batching" not in other.spec
    assert other.notes == ["metadata.rpc.batching has no effect here: the processor vllm has its own"]


@pytest.mark.parametrize(
    ("document", "chosen"),
    [
        ({"processor": "vllm"}, "vllm"),
        ({"containers": [{"image": "python-data", "command": "serve"}]}, "command"),
        ({"containers": [{"image": "registry.example/a:1"}]}, "image"),
    ],
)
def test_warming_up_is_told_to_be_the_own_servers(document: dict[str, Any], chosen: str) -> None:
    out = translate({"warm_up_data_path": "oss://models/warm.bin", **document})
    assert (out.spec["processor"], "warm_up" in out.spec) == (chosen, False)
    said = f"the processor {chosen} has a server of its own, which warms itself up"
    assert out.notes == [f"warm_up_data_path has no effect here: {said}"]
    assert translate({"warm_up_data_path": "oss://w", "processor": "onnx"}).spec["warm_up"] == "oss://w"


def test_limits_and_the_life_of_a_replica() -> None:
    out = translate(
        {
            "processor": "onnx",
            "model_path": "oss://models/digits/",
            "warm_up_data_path": "oss://models/warm.bin",
            "metadata": {
                "instance": 3,
                "type": "Async",
                "rolling_strategy": {"max_surge": "40%", "max_unavailable": "40%"},
                "eas": {"termination_grace_period": 45},
                "rpc": {"rate_limit": 0},
            },
            "networking": {
                "gateway_policy": {
                    "rate_limit": {"enable": True, "limit": 100},
                    "concurrency_limit": {"enable": False, "limit": 5},
                }
            },
            "queue": {"max_delivery": 3, "cpu": 1},
        }
    )
    spec = ServiceSpec.parse(out.spec, at="spec")
    assert (spec.rolling.max_surge, spec.rolling.max_unavailable) == (2, 1)
    assert (spec.grace_period, spec.rate_limit, spec.concurrency_limit) == (45, 100, None)
    assert spec.warm_up == "oss://models/warm.bin"
    assert spec.tasks is not None
    assert spec.tasks.attempts == 3
    assert out.notes == ["queue.cpu has no effect here: one queue serves all services"]


def test_a_share_that_comes_to_nothing_still_replaces_one() -> None:
    out = translate({"metadata": {"rolling_strategy": {"max_surge": 0, "max_unavailable": "25%"}}})
    assert out.spec["rolling"] == {"max_surge": 0, "max_unavailable": 1}


def test_the_first_instance_type_is_taken_and_prices_are_noted() -> None:
    out = translate(
        {"cloud": {"computing": {"instances": [{"type": "a", "spot_price_limit": 1.5}, {"type": "b", "capacity": 2}]}}}
    )
    assert out.spec["instance_type"] == "a"
    assert [note.partition(" ")[0] for note in out.notes] == [
        "cloud.computing.instances.0.spot_price_limit",
        "cloud.computing.instances.1.type",
        "cloud.computing.instances.1.capacity",
    ]


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("tensorflow_gpu_1.15", "tfserving"),
        ("pytorch_cpu_1.10", "torch.export"),
        ("pmml", "sklearn"),
        ("caffe_cpu", "onnx with the model converted"),
        ("huggingface_cpu", "vllm"),
        ("cobol", "one of onnx"),
    ],
)
def test_a_processor_of_the_clouds_says_what_to_use_instead(name: str, instead: str) -> None:
    with pytest.raises(Invalid) as caught:
        translate({"processor": name})
    assert instead in caught.value.fields[0].message


def test_the_processors_are_those_of_the_spec() -> None:
    assert set(PROCESSORS) == {str(processor) for processor in Processor}
    assert {str(processor) for processor in Processor if processor.own_server} == OWN_SERVER
    assert translate({"processor": "onnx_cu12"}).spec == {"processor": "onnx"}


def test_code_of_ones_own() -> None:
    script = translate(
        {"processor_type": "python", "processor_path": "oss://code/p.tar.gz", "processor_entry": "app.py"}
    )
    assert script.spec == {"code": "oss://code/p.tar.gz", "processor": "command", "command": "python app.py"}
    named = translate({"processor": "python", "processor_path": "src", "processor_entry": "app.py:Digits"})
    assert named.spec == {"processor": "python", "code": "src", "entry": "app.py:Digits"}
    with pytest.raises(Invalid, match="configuration") as caught:
        translate({"processor_type": "java"})
    assert caught.value.fields[0].path == "processor_type"


def test_the_models_entry_is_the_file_that_an_engine_loads() -> None:
    engine = translate({"processor": "onnx", "model_path": "oss://models/m/", "model_entry": "./nets/b.onnx"})
    assert (engine.spec["entry"], engine.notes) == ("nets/b.onnx", [])
    assert ServiceSpec.parse(engine.spec, at="spec").entry == "nets/b.onnx"
    own = {"processor_type": "python", "processor_path": "src", "processor_entry": "app.py:Digits"}
    for document in (own, {"processor": "python", "processor_path": "src", "model_entry": "app.py:Digits"}):
        assert translate(document).spec["entry"] == "app.py:Digits"
    noted = translate({**own, "model_entry": "weights.bin"})
    assert noted.spec["entry"] == "app.py:Digits"
    assert noted.notes == ["model_entry has no effect here: the class reads what it wants of $MW_MODEL_DIR"]
    other = translate({"processor": "vllm", "model_entry": "config.json"})
    assert ("entry" in other.spec, other.notes) == (
        False,
        ["model_entry has no effect here: vllm gets the whole model"],
    )
    for processor, entry in (("onnx", "app.py:Digits"), ("python", "net.onnx"), ("onnx", "../a.onnx"), ("vllm", "a")):
        with pytest.raises(Invalid, match="entry"):
            ServiceSpec.parse({"processor": processor, "model": "m:1", "code": "s3://c/", "entry": entry}, at="spec")


def test_what_is_asked_twice_over_is_merged() -> None:
    out = translate({"metadata": {"cpu": 2}, "metadata.memory": 100, "metadata.rpc.worker_threads": 3})
    assert out.spec == {"resources": {"cpu": 2, "memory": "100Mi"}, "concurrency": 3}


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"autoscaler": {"mn": 1}}, "autoscaler.mn"),
        ({"autoscaler": {"strategies": {"rainfall": 1}}}, "autoscaler.strategies.rainfall"),
        ({"autoscaler": {"strategies": {"qps": "many"}}}, "autoscaler.strategies.qps"),
        ({"autoscaler": {"behavior": {"scaleUp": {"x": 1}}}}, "autoscaler.behavior.scaleUp.x"),
        ({"ScaleJobs": [{"Nme": "x"}]}, "ScaleJobs.0.Nme"),
        ({"ExcludeDates": ["* * * 1 10 *"]}, "ExcludeDates.0"),
        ({"networking": {"gateway_policy": {"x": 1}}}, "networking.gateway_policy.x"),
        ({"metadata": {"rolling_strategy": {"max": 1}}}, "metadata.rolling_strategy.max"),
        ({"cloud": {"computing": {"instances": [{"typ": "a"}]}}}, "cloud.computing.instances.0.typ"),
        ({"metadata": 1, "metadata.rpc.keepalive": 2}, "metadata.rpc.keepalive"),
    ],
)
def test_wrong_scaling_and_limits_are_named_by_their_path(document: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as caught:
        translate(document)
    assert path in [field.path for field in caught.value.fields]
