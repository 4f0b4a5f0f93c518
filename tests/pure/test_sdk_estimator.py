"""The cloud SDK's nouns: what they send to the platform, against a stand-in for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from tests.stub_api import StubApi

from modelworks.kernel.errors import Conflict, Invalid, NotFound, Unauthorized, WorkloadFailed
from modelworks.products.training.spec import TrainingJobSpec
from modelworks.sdk import jobs
from modelworks.sdk import session as sessions
from modelworks.sdk.client import Document
from modelworks.sdk.estimator import Estimator
from modelworks.sdk.model import InferenceSpec, Model, RegisteredModel
from modelworks.sdk.predictor import Predictor, RawResponse
from modelworks.sdk.serializers import JsonSerializer
from modelworks.sdk.session import Session, get_default_session, setup_default_session
from modelworks.sdk.text import CallableStr, Utf8Writer, resource_name


@pytest.fixture
def api() -> StubApi:
    return StubApi()


@pytest.fixture
def session(api: StubApi) -> Session:
    return Session.of(api.client())


def succeed(api: StubApi, name: str, uri: str = "s3://mw-default/jobs/x/") -> None:
    """The next apply of this job finds it succeeded at once."""

    def apply(request: httpx.Request) -> httpx.Response:
        job = api.add("TrainingJob", name, phase="Succeeded", attempt=1, outputs=[{"name": "model", "uri": uri}])
        return httpx.Response(
            200, json={"results": [{"action": "created", "changes": [], "notes": [], "resource": job}]}
        )

    api.routes["POST /apply"] = apply
    api.routes[f"GET /jobs/{name}/log"] = httpx.Response(200, content="epoch 1 – ok\n".encode())


def test_fit_submits_a_job_and_shows_its_log(
    api: StubApi, session: Session, capsys: pytest.CaptureFixture[str]
) -> None:
    succeed(api, "digits-1")
    estimator = Estimator(
        image_uri="python-data",
        command="python train.py",
        hyperparameters={"epochs": 3},
        environments={"A": "1"},
        max_run_time=600,
        instance_type="local.small",
        instance_count=2,
        labels={"team": "vision"},
        session=session,
    )
    estimator.fit({"train": "oss://bucket/train/"}, job_name="digits-1")
    (manifest,) = api.bodies("/apply")[0]["manifests"]
    assert manifest["metadata"] == {"name": "digits-1", "workspace": "default", "labels": {"team": "vision"}}
    assert manifest["spec"] == {
        "command": "python train.py",
        "environment": "python-data",
        "instance_type": "local.small",
        "replicas": 2,
        "env": {"A": "1"},
        "hyperparameters": {"epochs": 3},
        "inputs": {"train": "oss://bucket/train/"},
        "time_limit": 600,
    }
    assert capsys.readouterr().out == "epoch 1 – ok\n"
    assert estimator.model_data == "s3://mw-default/jobs/x/"
    assert estimator.model_data() == "s3://mw-default/jobs/x/"
    assert estimator.checkpoints_data() == "s3://mw-default/jobs/digits-1/uiddigits-1/checkpoints/a1/"
    assert estimator.tensorboard_data() == "s3://mw-default/jobs/digits-1/uiddigits-1/tensorboard/"


def test_ctrl_c_leaves_a_job_and_says_so(
    api: StubApi, session: Session, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    succeed(api, "digits-1")

    def waiting(*_: object, on_change: Callable[[Document], None], **__: object) -> Document:
        for message in ("waits for capacity", "waits for capacity", "waits for capacity: needs 4 CPU"):
            status = {"phase": "Queued", "message": message, "observed_generation": 1}
            on_change({"metadata": {"generation": 1}, "status": status})
        raise KeyboardInterrupt

    monkeypatch.setattr(jobs, "follow", waiting)
    with pytest.raises(KeyboardInterrupt):
        Estimator(image_uri="python-data", command="python train.py", session=session).fit(job_name="digits-1")
    *waits, goes_on = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert waits[-2:] == ["note: waits for capacity", "note: waits for capacity: needs 4 CPU"]
    assert "job digits-1 goes on" in goes_on


def test_a_jobs_name_becomes_a_valid_one(api: StubApi, session: Session) -> None:
    succeed(api, "my-job")
    estimator = Estimator(command="python train.py", session=session)
    estimator.fit(job_name="My_Job", wait=False)
    assert api.bodies("/apply")[0]["manifests"][0]["metadata"]["name"] == estimator.latest_job_name == "my-job"


def test_requirements_make_the_environment(session: Session) -> None:
    estimator = Estimator(command="x", requirements=["torch"], session=session)
    assert estimator.manifest("j")["spec"]["environment"] == {"requirements": ["torch"]}
    with pytest.warns(UserWarning, match=r"in place of the image registry/torch:2") as told:
        both = Estimator(command="x", image_uri="registry/torch:2", requirements=["peft"], session=session)
    assert told[0].filename == __file__
    assert both.manifest("j")["spec"]["environment"] == {"requirements": ["peft"]}


def test_the_whole_constructor_becomes_one_spec(session: Session) -> None:
    class SpotSpec:
        def __init__(self) -> None:
            self.spot_strategy, self.spot_discount_limit = "SpotWithPriceLimit", 0.5

    estimator = Estimator(
        command="x",
        job_type="TFJob",
        instance_count=2,
        instance_spec={"cpu": "4", "memory": 8, "gpu": "1", "gpu_type": "V100"},
        checkpoints_path="oss://bucket/ckpt/",
        metric_definitions=[{"name": "loss", "regex": "loss=(.+)"}],
        experiment_config={"experiment_name": "digits", "experiment_id": "e-1"},
        spot_spec=SpotSpec(),
        session=session,
    )
    spec = estimator.manifest("j")["spec"]
    assert spec == {
        "command": "x",
        "framework": "tensorflow",
        "replicas": 2,
        "resources": {"cpu": "4", "memory": "8Gi", "gpu": 1, "gpu_model": "V100"},
        "checkpoint": {"uri": "oss://bucket/ckpt/"},
        "metrics": [{"name": "loss", "regex": "loss=(.+)"}],
        "experiment": "digits",
        "spot": {"price_limit": 0.5},
    }
    assert TrainingJobSpec.parse(spec).size == 2


def test_other_job_types_and_spot(session: Session) -> None:
    elastic = Estimator(command="x", job_type="ElasticBatchJob", instance_count=3, spot_instance=True, session=session)
    assert elastic.manifest("j")["spec"] == {"command": "x", "replicas": {"min": 1, "max": 3}, "spot": {}}
    with pytest.raises(Invalid, match="SlurmJob") as caught:
        Estimator(command="x", job_type="SlurmJob", session=session).manifest("j")
    assert "PyTorchJob, TFJob" in (caught.value.remedy or "")


def test_a_failed_job_raises_its_message(api: StubApi, session: Session) -> None:
    job = api.add("TrainingJob", "j", phase="Failed", message="exit code 1", last_lines=["boom"])
    api.routes["POST /apply"] = {"results": [{"action": "created", "notes": [], "resource": job}]}
    api.routes["GET /jobs/j/log"] = httpx.Response(200, content=b"boom\n")
    with pytest.raises(WorkloadFailed, match=r"exit code 1\n  \| boom"):
        Estimator(command="x", session=session).fit(job_name="j", show_logs=False)


def test_arguments_without_effect_warn(session: Session) -> None:
    with pytest.warns(UserWarning, match="user_vpc_config"):
        Estimator(command="x", user_vpc_config={"a": 1}, session=session)
    with pytest.warns(UserWarning, match="no such arguments: comand"):
        Estimator(command="x", comand="y", session=session)


def test_local_folders_are_no_inputs_of_a_platform_job(session: Session) -> None:
    with pytest.raises(Invalid, match="not in the object store") as caught:
        Estimator(command="x", session=session).fit({"train": "./data"})
    assert "mw bucket upload ./data" in (caught.value.remedy or "")


def test_an_estimator_without_a_command_or_a_job(session: Session) -> None:
    with pytest.raises(Invalid, match="command"):
        Estimator()
    with pytest.raises(NotFound, match="no job"):
        _ = Estimator(command="x", session=session).model_data


def test_deploy_makes_a_service(api: StubApi, session: Session, capsys: pytest.CaptureFixture[str]) -> None:
    model = Model("oss://bucket/model/", InferenceSpec(processor="onnx"), session=session)
    predictor = model.deploy(
        "digits", instance_count=2, resource_config={"cpu": 1, "memory": 500}, wait=False,
        options={"metadata.rpc.keepalive": 5000, "metadata": {"qos": "a", "rpc": {"max_queue_size": 9}}},
    )  # fmt: skip
    (manifest,) = api.bodies("/apply")[0]["manifests"]
    assert manifest["spec"] == {
        "processor": "onnx",
        "model": "oss://bucket/model/",
        "replicas": 2,
        "keepalive": 5.0,
        "queue": {"size": 9},
        "resources": {"cpu": 1, "memory": "500Mi"},
    }
    assert "metadata.qos has no effect here" in capsys.readouterr().err
    assert predictor.endpoint == "http://mw.test/api/predict/digits"


def test_a_registered_model_is_named_by_number_or_alias(api: StubApi, session: Session) -> None:
    spec = InferenceSpec(processor="onnx")
    for version, reference in ((1, "digits:1"), ("prod", "digits@prod"), (None, "digits")):
        RegisteredModel("digits", version, session=session, inference_spec=spec).deploy("d", wait=False)
        assert api.bodies("/apply")[-1]["manifests"][0]["spec"]["model"] == reference


def test_a_version_must_be_the_next_one(api: StubApi, session: Session) -> None:
    api.routes["GET /models/digits/versions"] = {"items": [{"version": 2}, {"version": 1}], "next_cursor": None}
    with pytest.raises(Conflict, match="next version of digits is 3"):
        Model("s3://b/m/", session=session).register("digits", version="1")
    api.routes["POST /models/digits/versions"] = {"version": 3}
    assert Model("s3://b/m/", session=session).register("digits", version="3").model_version == "3"


def test_a_rotated_token_is_fetched_again(api: StubApi, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = iter(("old", "new"))
    api.routes["GET /services/d/token"] = lambda _: httpx.Response(200, json={"token": next(tokens)})
    predictor, seen = Predictor("d", session=session), []

    def answer(data: object = None, **_: object) -> RawResponse:
        seen.append(predictor.access_token)
        if seen[-1] == "old":
            return RawResponse(401, {}, b'{"detail": "wrong token", "code": "unauthorized"}')
        return RawResponse(200, {"content-type": "application/json"}, b'{"predictions": [1]}')

    monkeypatch.setattr(predictor, "raw_predict", answer)
    assert predictor.predict([1]) == {"predictions": [1]}
    assert seen == ["old", "new"]


def test_a_refusal_is_raised(api: StubApi, session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    api.routes["GET /services/d/token"] = {"token": "t"}
    predictor = Predictor("d", session=session)
    monkeypatch.setattr(predictor, "raw_predict", lambda *_, **__: RawResponse(401, {}, b"no"))
    with pytest.raises(Unauthorized, match="answered 401: no"):
        predictor.predict([1])


class Array:
    """As numpy's arrays are, for JSON."""

    def tolist(self) -> list[float]:
        return [1.0, 2.0]


def test_arrays_are_sent_as_lists() -> None:
    assert JsonSerializer().serialize({"instances": Array()}) == b'{"instances":[1.0,2.0]}'
    with pytest.raises(TypeError, match="object cannot be sent"):
        JsonSerializer().serialize(object())


def test_the_default_session_is_found(monkeypatch: pytest.MonkeyPatch, api: StubApi) -> None:
    monkeypatch.setattr(sessions, "_default", None)
    made = setup_default_session(
        access_key_id="a", access_key_secret="b", region_id="cn-hangzhou", workspace_id="team", endpoint="http://x"
    )
    assert get_default_session() is made
    assert Estimator(command="x").session is made
    assert made.workspace == "team"


def test_callable_text() -> None:
    text = CallableStr("s3://a/")
    assert text == text() == "s3://a/"
    assert type(text()) is str


@pytest.mark.parametrize(("text", "name"), [("Train Model.py", "train-model-py"), ("--", "job"), ("a" * 80, "a" * 63)])
def test_names_out_of_any_text(text: str, name: str) -> None:
    assert resource_name(text) == name
    assert len(resource_name(text, unique=True)) <= 63


def test_characters_cut_in_two_are_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with path.open("w", encoding="utf-8") as stream:
        write = Utf8Writer(stream)
        for byte in "ä–😀".encode():
            write(bytes([byte]))
    assert path.read_text(encoding="utf-8") == "ä–😀"


def test_options_say_how_many_there_are(api: StubApi, session: Session) -> None:
    model = Model("oss://bucket/model/", InferenceSpec(processor="onnx"), session=session)
    scaled = {"metadata.auto_scale.min_replica": 1, "metadata.auto_scale.max_replica": 4, "metadata.instance": 2}
    model.deploy("a", options=scaled, service_type="Async", wait=False)
    model.deploy("b", wait=False)
    first, second = (body["manifests"][0]["spec"] for body in api.bodies("/apply"))
    assert first["autoscaling"] == {"min": 1, "max": 4, "initial": 2}
    assert first["tasks"] == {}
    assert "replicas" not in second


def test_another_version_by_its_number(api: StubApi, session: Session) -> None:
    api.routes["POST /services/digits/rollback"] = httpx.Response(202, json=api.add("Service", "digits"))
    Predictor("digits", session=session).switch_version(2, wait=False)
    assert api.bodies("/services/digits/rollback") == [{"to": "2"}]
