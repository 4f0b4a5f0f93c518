"""Files of other systems where manifests are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelworks.cli import manifests
from modelworks.kernel.errors import Invalid

DEPLOYMENT = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {ports: [{port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, annotations: {a: b}}
spec: {template: {spec: {containers: [{name: web, image: nginx:1}]}}}
"""


def written(folder: Path, name: str, text: str) -> list[manifests.Source]:
    (folder / name).write_text(text)
    return manifests.load([folder / name])


def test_service_json_is_a_manifest(tmp_path: Path) -> None:
    document = {"name": "digits", "token": "x", "processor": "onnx", "model_path": "oss://models/digits/"}
    (source,) = written(tmp_path, "service.json", json.dumps(document))
    assert source.document == {
        "kind": "Service",
        "metadata": {"name": "digits"},
        "spec": {"processor": "onnx", "model": "oss://models/digits/"},
    }
    assert source.notes == ("token has no effect here: a service gets a token of its own (`mw service token NAME`)",)


def test_a_deployment_is_a_manifest_and_its_service_is_not_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source,) = written(tmp_path, "web.yaml", DEPLOYMENT)
    assert (source.document["kind"], source.document["metadata"]["name"]) == ("Service", "web")
    readiness = {"path": "/", "status": "any"}
    assert source.document["spec"] == {"processor": "image", "image": "nginx:1", "readiness": readiness}
    annotations, probe = source.notes
    assert annotations == "metadata.annotations has no effect here"
    assert "has no probe: a replica is ready when its port answers" in probe
    assert f"{tmp_path / 'web.yaml'} document 1: a Service of Kubernetes is not needed" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"name": "a", "processor": "onnx", "metadata": {"instences": 1}}, "metadata.instences"),
        ({"processor": "onnx"}, "name"),
        ({"name": "a"}, "kind"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, document: dict[str, object], path: str) -> None:
    with pytest.raises(Invalid) as caught:
        written(tmp_path, "service.json", json.dumps(document))
    assert [field.path.rpartition(": ")[2] for field in caught.value.fields] == [path]
