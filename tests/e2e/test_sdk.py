"""Scripts in the manner of the cloud's SDK, on the real platform."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.cli_platform import Mw, fresh

from modelworks.kernel.errors import WorkloadFailed
from modelworks.sdk.estimator import Estimator
from modelworks.sdk.model import InferenceSpec, Model, RegisteredModel, container_serving_spec
from modelworks.sdk.predictor import Predictor
from modelworks.sdk.session import setup_default_session

TRAIN = """
import json, os, pathlib
numbers = [float(x) for x in pathlib.Path("/ml/input/data/train/numbers.txt").read_text().split()]
config = json.loads(pathlib.Path("/ml/input/config/hyperparameters.json").read_text())
scale = float(config["scale"]) * float(os.environ["FACTOR"])
pathlib.Path("/ml/output/model/mean.json").write_text(json.dumps(scale * sum(numbers) / len(numbers)))
print("trained", os.environ["PAI_USER_ARGS"])
"""
LOCAL = TRAIN.replace('"/ml/input/data/train/', 'os.environ["MW_INPUT_TRAIN"] + "/').replace(
    '"/ml/output/model/', 'os.environ["MW_OUTPUT_DIR"] + "/'
).replace('"/ml/input/config/hyperparameters.json"', 'os.environ["MW_HYPERPARAMETERS_FILE"]')  # fmt: skip
PROCESSOR = """
import json, os, pathlib
class Mean:
    def initialize(self):
        self.mean = json.loads(pathlib.Path(os.environ["MW_MODEL_DIR"], "mean.json").read_text())
    def process(self, data):
        return {"shifted": [value - self.mean for value in data]}
"""
SERVER = """
import http.server, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(b'{"status": "ok"}')
    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers["Content-Length"])))
    def answer(self, body):
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Who", os.environ["WHO"])
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer(("0.0.0.0", int(os.environ["PORT"])), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def mw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mw]:
    with fresh() as one:
        document = json.loads(one.home.client.read_text())
        setup_default_session(region_id="cn-hangzhou", endpoint=document["url"], api_key=document["api_key"])
        numbers = tmp_path_factory.mktemp("data") / "numbers.txt"
        numbers.write_text("1 2 3")
        one.ok("bucket", "create", "data")
        one.ok("bucket", "upload", str(numbers), "s3://data/train/")
        yield one
        setup_default_session()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)
    (folder / "mean.py").write_text(PROCESSOR)
    (folder / "server.py").write_text(SERVER)
    return folder


def estimator(source: Path, **more: object) -> Estimator:
    options = {"instance_type": "local.tiny", "hyperparameters": {"scale": 10}, "environments": {"FACTOR": "0.5"}}
    return Estimator(command="python train.py $PAI_USER_ARGS", source_dir=str(source), **options | more)  # type: ignore[arg-type]


def test_train_deploy_and_predict(mw: Mw, source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = estimator(source, base_job_name="Mean Of It").fit(
        {"train": "oss://data.oss-cn-hangzhou.aliyuncs.com/train/"}
    )
    assert "trained --scale 10" in capsys.readouterr().out
    assert str(trained.latest_job_name).startswith("mean-of-it-")
    uri = trained.model_data
    assert uri == trained.model_data() == uri()
    assert uri.startswith("s3://")

    spec = InferenceSpec(processor="python", processor_entry="mean.py:Mean")
    spec.mount(str(source), "/ml/usercode")
    predictor = Model(trained.model_data(), spec).deploy("mean", instance_type="local.tiny")
    try:
        assert predictor.predict([10.0, 11.0]) == {"shifted": [0.0, 1.0]}
        assert predictor.predict(np.array([10.0, 12.0])) == {"shifted": [0.0, 2.0]}
        assert Predictor("mean").predict([0]) == {"shifted": [-10.0]}
        assert predictor.endpoint.endswith("/api/predict/mean")
        assert len(predictor.access_token) >= 40
        registered = trained.create_model().register("mean", metrics={"mean": 10})
        assert isinstance(registered, RegisteredModel)
        assert json.loads(mw.ok("model", "get", "mean:1", "--json"))["metrics"] == {"mean": 10}
    finally:
        predictor.delete_service()


def test_the_same_estimator_here(mw: Mw, source: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (source / "train.py").write_text(LOCAL)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "numbers.txt").write_text("1 2 3")
    here = estimator(source, instance_type="local", output_path=str(tmp_path / "run"))
    here.fit({"train": str(tmp_path / "train")})
    assert "trained --scale 10" in capfd.readouterr().out
    assert json.loads(Path(os.path.join(here.model_data(), "mean.json")).read_text()) == 10.0


def test_a_job_that_fails_raises_with_its_last_words(mw: Mw, source: Path) -> None:
    (source / "train.py").write_text("raise ValueError('no such thing')")
    with pytest.raises(WorkloadFailed, match="no such thing"):
        estimator(source).fit({"train": "s3://data/train/"}, show_logs=False)


def test_any_http_server(mw: Mw, source: Path) -> None:
    spec = container_serving_spec(
        command="python server.py",
        image_uri="default",
        source_dir=str(source),
        environment_variables={"WHO": "me"},
        health_check="/ready",
    )
    predictor = Model(inference_spec=spec).deploy("server", resource_config={"cpu": 1, "memory": 256})
    try:
        answer = predictor.raw_predict(b'{"x": 1}', path="echo", headers={"Content-Type": "application/json"})
        assert (answer.status_code, answer.json(), answer.headers["x-who"]) == (200, {"x": 1}, "me")
        assert predictor.predict({"x": 2}) == {"x": 2}
    finally:
        predictor.delete_service()
