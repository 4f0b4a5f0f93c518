"""The public names: what scripts import from the SDK stays where it is."""

from __future__ import annotations

import importlib
import inspect

import pytest

import modelworks
from modelworks.sdk.estimator import Estimator
from modelworks.sdk.model import Model, container_serving_spec
from modelworks.sdk.predictor import Predictor
from modelworks.sdk.session import Session, setup_default_session

PUBLIC = {
    "modelworks": (
        "Estimator InferenceSpec Model Predictor RegisteredModel Session Sweep __version__ container_serving_spec "
        "setup_default_session"
    ),
    "modelworks.sdk.session": "Session get_default_session setup_default_session",
    "modelworks.sdk.estimator": "Estimator",
    "modelworks.sdk.model": "InferenceSpec Model RegisteredModel container_serving_spec",
    "modelworks.sdk.predictor": "Predictor",
    "modelworks.sdk.sweeps": "Sweep",
}

ARGUMENTS = {
    setup_default_session: (
        "access_key_id access_key_secret security_token region_id credential_config oss_bucket_name oss_endpoint "
        "workspace_id network endpoint api_key"
    ),
    Session.__init__: "region_id workspace_id credential_config oss_bucket_name oss_endpoint",
    Estimator.__init__: (
        "image_uri command source_dir git_config job_type hyperparameters environments requirements base_job_name "
        "max_run_time checkpoints_path output_path metric_definitions instance_type instance_count user_vpc_config "
        "experiment_config resource_id session spot_spec instance_spec resource_type settings labels input_channels "
        "spot_instance"
    ),
    Estimator.fit: "inputs outputs wait show_logs job_name",
    container_serving_spec: (
        "command image_uri source_dir git_config port environment_variables requirements requirements_path "
        "health_check storage_configs session"
    ),
    Model.__init__: "model_data inference_spec session",
    Model.deploy: (
        "service_name instance_count instance_type resource_config resource_id options service_type wait serializer "
        "inference_method"
    ),
    Model.register: "model_name version",
    Predictor.__init__: "service_name endpoint_type serializer session",
    Predictor.raw_predict: "data path headers method timeout",
}


@pytest.mark.parametrize("module", PUBLIC)
def test_names_are_there(module: str) -> None:
    found = importlib.import_module(module)
    for name in PUBLIC[module].split():
        assert hasattr(found, name), f"{module}.{name}"


def test_the_package_exports_exactly_these() -> None:
    assert sorted(modelworks.__all__) == sorted(PUBLIC["modelworks"].split())


@pytest.mark.parametrize("function", ARGUMENTS, ids=lambda f: f.__qualname__)
def test_arguments_have_the_names_of_the_cloud(function: object) -> None:
    parameters = [name for name in inspect.signature(function).parameters if name != "self"]  # type: ignore[arg-type]
    wanted = ARGUMENTS[function].split()  # type: ignore[index]
    assert [name for name in parameters if name in wanted] == wanted


@pytest.mark.parametrize("name", ["predict", "openai", "endpoint", "access_token", "start_service", "stop_service",
                                  "delete_service"])  # fmt: skip
def test_a_predictor_has(name: str) -> None:
    assert hasattr(Predictor, name)
