"""What manifests name, on the real platform: a cloud's shapes, images and models, environments, volumes, aliases."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli_platform import Mw, fresh

SETTINGS = """
substitutions:
  instance_types: [{from: "ecs.gn7i-*", to: local.tiny}]
  images: [{from: "*pai-image-pytorch:*", to: plain}]
  models: [{from: "oss://cloud-models/*", to: "s3://mine/model/"}]
environments:
  plain: {requirements: [], description: the platform's own Python}
"""
NOWHERE = "localhost:1/no/such:1"
NOTES = [
    "instance_type ecs.gn7i-c8g1.2xlarge → local.tiny (from the configuration)",
    "image {image} → plain (from the configuration)",
    "model {model} → s3://mine/model/ (from the configuration)",
]
WEB = 'kind: Service\nmetadata: {name: web}\nspec: {model: "web@prod", processor: command, instance_type: local.tiny,'
SERVE = ' command: "python -m http.server $PORT --directory /mnt/model", readiness: {path: /}}\n'


@pytest.fixture(scope="module")
def mw(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mw]:
    with fresh(up=False) as one:
        one.home.config.write_text(SETTINGS)
        one.ok("up", "--detach")
        one.ok("bucket", "create", "mine")
        for name, text in (("model", "weights"), ("other", "others")):
            file = tmp_path_factory.mktemp("model") / f"{name}.txt"
            file.write_text(text)
            one.ok("bucket", "upload", str(file), f"s3://mine/{name}/")
        yield one


def manifest(kind: str, name: str, **spec: Any) -> str:
    return yaml.safe_dump({"kind": kind, "metadata": {"name": name}, "spec": spec})


def job(name: str, **spec: Any) -> str:
    return manifest("TrainingJob", name, **{"instance_type": "local.tiny"} | spec)


def get(mw: Mw, kind: str, name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(mw.ok("get", kind, name, "--json"))
    return document


def finish(mw: Mw, text: str, name: str) -> str:
    """The log of a job that succeeds."""
    mw.ok("apply", "-f", "-", stdin=text)
    mw.ok("job", "wait", name)
    return mw.ok("job", "log", name)


def test_a_clouds_job_runs_as_the_settings_say(mw: Mw) -> None:
    image, model = "registry.example.com/pai/pai-image-pytorch:2.3", "oss://cloud-models/bert/"
    text = job(
        "cloud",
        command="cat /mnt/weights/model.txt",
        environment={"image": image},
        instance_type="ecs.gn7i-c8g1.2xlarge",
        inputs={"weights": model},
    )
    notes = [note.format(image=image, model=model) for note in NOTES]
    checked = mw("job", "validate", "-f", "-", stdin=text)
    applied = mw("apply", "-f", "-", stdin=text)
    for done in (checked, applied):
        assert [line.removeprefix("note: ") for line in done.stderr.splitlines()] == notes
    mw.ok("job", "wait", "cloud")
    assert mw.ok("job", "log", "cloud") == "weights"
    document = get(mw, "job", "cloud")
    assert document["spec"]["instance_type"] == "ecs.gn7i-c8g1.2xlarge"
    recorded = {(s["field"], s["requested"], s["used"]) for s in document["resolved"]["substitutions"]}
    assert recorded == {
        ("instance_type", "ecs.gn7i-c8g1.2xlarge", "local.tiny"),
        ("image", image, "plain"),
        ("model", model, "s3://mine/model/"),
    }
    assert mw.ok("apply", "-f", "-", stdin=text) == "TrainingJob/cloud unchanged\n"


def test_a_clouds_service_runs_as_the_settings_say(mw: Mw) -> None:
    text = manifest(
        "Service",
        "cloud",
        model="oss://cloud-models/bert/",
        processor="command",
        command="python -m http.server $PORT --directory /mnt/model",
        readiness={"path": "/"},
        environment={"image": "pai-image-pytorch:2.3"},
        instance_type="ecs.gn7i-c8g1.2xlarge",
    )
    applied = mw("apply", "-f", "-", stdin=text)
    notes = [note.format(image="pai-image-pytorch:2.3", model="oss://cloud-models/bert/") for note in NOTES]
    assert [line.removeprefix("note: ") for line in applied.stderr.splitlines()] == notes
    assert len(get(mw, "service", "cloud")["resolved"]["substitutions"]) == 3
    mw.ok("service", "start", "cloud", "--wait")
    assert mw.ok("service", "call", "cloud", "--path", "model.txt") == "weights"
    mw.ok("service", "delete", "cloud")


ONE_FILE = """
import os
from pathlib import Path
class Files:
    def initialize(self):
        self.heard = []
    def process(self, data):
        self.heard.append(data.decode())
        found = [Path(os.environ[name]) for name in ("MW_MODEL_DIR", "MW_WARM_UP")]
        return [self.heard[0], *(one.name + "=" + one.read_text() for path in found for one in path.iterdir())]
"""


def test_a_model_and_a_warm_up_of_one_file(mw: Mw, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "files.py").write_text(ONE_FILE)
    (tmp_path / "warm.bin").write_text("hello")
    mw.ok("bucket", "upload", str(tmp_path / "warm.bin"), "s3://mine/single/")
    service = manifest(
        "Service",
        "single",
        processor="python",
        entry="files.py:Files",
        code="code",
        model="oss://mine/model/model.txt",
        warm_up="oss://mine/single/warm.bin",
        instance_type="local.tiny",
    )
    (tmp_path / "service.yaml").write_text(service)
    mw.ok("service", "create", "-f", "service.yaml", "--wait", cwd=tmp_path)
    answer = json.loads(mw.ok("service", "call", "single", "--data", "bytes"))
    assert answer == ["hello", "model.txt=weights", "warm.bin=hello"]
    mw.ok("service", "delete", "single")


def test_nothing_is_made_smaller_unasked(mw: Mw) -> None:
    mw.ok("apply", "-f", "-", stdin=job("gpu", command="true", instance_type="ecs.gn6i-c4g1.xlarge"))
    unknown = mw("apply", "-f", "-", stdin=job("unknown", command="true", instance_type="ecs.gn99"))
    assert (unknown.returncode, "no instance type is called 'ecs.gn99'" in unknown.stderr) == (2, True)
    image = mw("job", "run", "-f", "-", stdin=job("image", command="true", environment={"image": NOWHERE}))
    assert image.returncode == 6
    # What is said without a container engine, and with one.
    assert "images need podman or docker" in image.stderr or f"{NOWHERE} cannot be pulled" in image.stderr
    waiting = get(mw, "job", "gpu")
    assert (waiting["status"]["phase"], waiting["resolved"]["instance_type"]) == ("Queued", "ecs.gn6i-c4g1.xlarge")
    assert "GPU" in waiting["status"]["message"]
    mw.ok("job", "delete", "gpu")


def test_a_resolver_that_fails_is_heard_once(mw: Mw, tmp_path: Path) -> None:
    wrong = {"requirements": ["no-such-package-of-modelworks @ http://127.0.0.1:9/x-1-py3-none-any.whl"]}
    failed = mw("job", "run", "-f", "-", stdin=job("unresolved", command="true", environment=wrong, retries=5))
    assert failed.returncode == 6
    assert "the environment cannot be built: " in failed.stderr
    assert "no-such-package-of-modelworks" in mw.ok("job", "log", "unresolved")
    assert len(get(mw, "job", "unresolved")["status"]["attempts"]) == 1


def test_jobs_and_services_share_an_environment(mw: Mw, tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("# nothing but an option\n--prefer-binary\n")
    mw.ok("environment", "create", "own", "-r", "requirements.txt", cwd=tmp_path)
    tell = "import sys; print(sys.prefix)"
    inline = {"requirements": ["--prefer-binary  # the same, written otherwise"]}
    logs = [
        finish(mw, job("named", command=["python", "-c", tell], environment="own"), "named"),
        finish(mw, job("inline", command=["python", "-c", tell], environment=inline), "inline"),
    ]
    mw.ok(
        "apply", "-f", "-",
        stdin=manifest("Service", "shares", processor="command", environment="own", instance_type="local.tiny",
                       readiness={"path": "/"}, command=f"python -c '{tell}'; exec python -m http.server $PORT"),
    )  # fmt: skip
    mw.ok("service", "start", "shares", "--wait")
    logs.append(mw.ok("service", "log", "shares").splitlines(keepends=True)[0])
    assert len(set(logs)) == 1
    built = [path.name for path in (mw.home.agent / "environments").iterdir() if (path / ".complete").exists()]
    assert Path(logs[0].strip()).name in built
    mw.ok("service", "delete", "shares")


def test_a_disk_is_one_workloads_and_a_shared_volume_everybodys(mw: Mw, tmp_path: Path) -> None:
    mw.ok("volume", "create", "disk", "--size", "1Gi")
    mw.ok("volume", "create", "common", "--size", "1Gi", "--shared")

    def using(name: str, *volumes: str, command: str = "sleep 600") -> str:
        return job(name, command=command, volumes=[{"name": v, "mount_path": f"/mnt/{v}"} for v in volumes])

    mw.ok("apply", "-f", "-", stdin=using("first", "disk", "common"))
    refused = mw("apply", "-f", "-", stdin=using("second", "disk"))
    assert (refused.returncode, "attached to TrainingJob first" in refused.stderr) == (4, True)
    assert finish(mw, using("second", "common", command="echo here > /mnt/common/x; cat /mnt/common/x"), "second")
    in_use = mw("volume", "delete", "disk")
    assert (in_use.returncode, "attached to TrainingJob first" in in_use.stderr) == (4, True)
    gone = mw("job", "delete", "first")
    assert {line for line in gone.stderr.splitlines() if "attached to nothing" in line} == {
        f"note: volume {name} stays, attached to nothing; `mw delete volume {name}` ends its cost"
        for name in ("disk", "common")
    }
    assert finish(mw, using("third", "disk", "common", command="cat /mnt/common/x"), "third") == "here\n"
    billed = json.loads(mw.ok("cost", "--json"))["items"]
    assert {(i["kind"], i["name"], i["unit"]) for i in billed} >= {
        ("Volume", "disk", "GiB"),
        ("Volume", "common", "GiB"),
        ("TrainingJob", "third", "instance"),
    }
    mw.ok("volume", "delete", "disk")


def test_a_moved_alias_is_a_change_and_a_used_model_stays(mw: Mw) -> None:
    for name in ("model", "other"):
        mw.ok("model", "register", "web", "--uri", f"s3://mine/{name}/", "--metric", "accuracy=0.9")
    assert mw("apply", "-f", "-", stdin=WEB + SERVE).returncode == 2  # there is no such alias yet
    mw.ok("model", "alias", "web:1", "prod")
    mw.ok("apply", "-f", "-", stdin=WEB + SERVE)
    mw.ok("service", "start", "web", "--wait")
    assert mw.ok("service", "call", "web", "--path", "model.txt") == "weights"
    assert mw.ok("apply", "-f", "-", stdin=WEB + SERVE) == "Service/web unchanged\n"
    mw.ok("model", "alias", "web:2", "prod")
    assert "resolved.model.version: 1 → 2" in mw.ok("diff", "-f", "-", stdin=WEB + SERVE)
    mw.ok("service", "create", "-f", "-", "--wait", stdin=WEB + SERVE)
    assert mw.ok("service", "call", "web", "--path", "other.txt") == "others"
    used = mw("model", "delete", "web")
    assert (used.returncode, "serves in web" in used.stderr) == (4, True)
    mw.ok("service", "delete", "web")
    mw.ok("model", "delete", "web")


def test_the_next_attempt_has_the_checkpoints_of_the_last(mw: Mw) -> None:
    command = 'cd "$MW_CHECKPOINT_DIR"; ls; touch "step-$MW_ATTEMPT"; test "$MW_ATTEMPT" = 3'
    assert finish(mw, job("resumes", command=command, retries=2), "resumes") == "step-1\nstep-1\nstep-2\n"


def test_a_job_knows_the_platforms_address_and_no_key_of_it(mw: Mw) -> None:
    url = json.loads(mw.home.client.read_text())["url"]
    assert finish(mw, job("address", command='echo "$MW_API $MW_TOKEN$MW_API_KEY"'), "address") == f"{url} \n"


def test_every_kind_by_its_names(mw: Mw) -> None:
    kinds = json.loads(mw.ok("get", "volumes", "--json")), mw.ok("get", "vol")
    assert {item["metadata"]["name"] for item in kinds[0]["items"]} <= set(kinds[1].split())
    for name in ("job", "trainingjobs", "tj", "svc", "models", "bucket", "env", "environments", "it", "instance-types"):
        mw.ok("get", name)
        assert "items" in json.loads(mw.ok("get", name, "--json"))
