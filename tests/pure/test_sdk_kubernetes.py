"""A Deployment of Kubernetes as a Service."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from modelworks.kernel.errors import Invalid
from modelworks.products.serving.spec import ServiceSpec
from modelworks.sdk.kubernetes import is_deployment, is_endpoint, translate

DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata:
  name: chat
  namespace: default
  labels: {app: chat}
  annotations: {a: b}
spec:
  replicas: 4
  selector: {matchLabels: {app: chat}}
  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 25%, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: chat}}
    spec:
      nodeSelector: {disk: ssd}
      tolerations:
        - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
        - {key: team, operator: Equal, value: ml, effect: NoExecute}
      terminationGracePeriodSeconds: 60
      containers:
        - name: server
          image: registry.example/chat:1.2
          imagePullPolicy: Always
          args: [--model, tiny]
          ports: [{name: metrics, containerPort: 9090}, {name: http, containerPort: 8080}]
          env: [{name: MODE, value: fast}, {name: DEBUG, value: false}]
          resources:
            requests: {cpu: 500m, memory: 1Gi}
            limits: {memory: 2Gi, nvidia.com/gpu: "1"}
          readinessProbe:
            {httpGet: {path: /ready, port: 8080}, periodSeconds: 5, failureThreshold: 2, initialDelaySeconds: 3}
          livenessProbe: {httpGet: {path: /live, port: 8080}}
          startupProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 10, failureThreshold: 30}
          volumeMounts:
            - {name: scratch, mountPath: /data/scratch}
            - {name: shm, mountPath: /dev/shm}
      volumes:
        - {name: scratch, persistentVolumeClaim: {claimName: scratch-claim}}
        - {name: shm, emptyDir: {medium: Memory}}
"""


ANY = {"path": "/", "status": "any"}
SAID = "a replica is ready when its port answers a GET of /, with whatever status"


@pytest.mark.parametrize(
    ("probes", "readiness", "noted"),
    [
        (
            {},
            ANY,
            f"containers.0 has no probe: {SAID}",
        ),
        ({"readinessProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 2}}, {**ANY, "period": "2s"}, None),
        ({"livenessProbe": {"tcpSocket": {"port": 80}}}, ANY, None),
        ({"startupProbe": {"tcpSocket": {"port": 80}, "periodSeconds": 5}}, {**ANY, "startup": "15s"}, None),
        ({"startupProbe": {"httpGet": {"path": "/up"}}}, {"path": "/up", "startup": "30s"}, None),
        (
            {"readinessProbe": {"httpGet": {"path": "/up"}}, "startupProbe": {"tcpSocket": {"port": 80}}},
            {"path": "/up", "startup": "30s"},
            None,
        ),
        (
            {"readinessProbe": {"exec": {"command": ["true"]}}},
            ANY,
            f"readinessProbe.exec has no effect here: {SAID}",
        ),
    ],
)
def test_a_probe_that_is_no_get_wants_an_answer_of_the_port(
    probes: dict[str, Any], readiness: dict[str, Any], noted: str | None
) -> None:
    container = {"image": "registry.example/web:1", **probes}
    out = translate(
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
         "spec": {"template": {"spec": {"containers": [container]}}}}
    )  # fmt: skip
    assert out.spec["readiness"] == readiness
    assert [note.partition("spec.template.spec.")[2].removeprefix("containers.0.") for note in out.notes] == (
        [noted] if noted else []
    )
    ServiceSpec.parse(out.spec, at="spec")


def test_a_deployment_is_taken_over() -> None:
    document = yaml.safe_load(DEPLOYMENT)
    assert is_deployment(document)
    out = translate(document)
    assert (out.name, out.labels) == ("chat", {"app": "chat"})
    assert out.spec == {
        "processor": "image",
        "image": "registry.example/chat:1.2",
        "args": ["--model", "tiny"],
        "replicas": 4,
        "rolling": {"max_surge": 1, "max_unavailable": 0},
        "node_selector": {"disk": "ssd"},
        "tolerations": ["nvidia.com/gpu", "team=ml"],
        "grace_period": "60s",
        "port": 8080,
        "env": {"MODE": "fast", "DEBUG": "false"},
        "resources": {"cpu": "500m", "memory": "2Gi", "gpu": 1},
        "readiness": {"path": "/ready", "period": "5s", "failures": 2, "startup": "300s"},
        "volumes": [{"name": "scratch-claim", "mount_path": "/data/scratch"}],
    }
    ServiceSpec.parse(out.spec, at="spec")
    assert sorted(note.split(" has")[0].partition("containers.0.")[2] or note.split()[0] for note in out.notes) == [
        "imagePullPolicy",
        "livenessProbe",
        "metadata.annotations",
        "ports.0",
        "readinessProbe.initialDelaySeconds",
        "volumeMounts.1",
    ]


def deployment(**pod: Any) -> dict[str, Any]:
    containers = [{"name": "a", "image": "registry.example/a:1"}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "a"},
        "spec": {"template": {"spec": {"containers": containers, **pod}}},
    }


def container(**more: Any) -> dict[str, Any]:
    return deployment(containers=[{"name": "a", "image": "registry.example/a:1", **more}])


@pytest.mark.parametrize(
    ("document", "path"),
    [
        (deployment(containers=[]), "spec.template.spec.containers"),
        (deployment(containers=[{"image": "a"}, {"image": "b"}]), "spec.template.spec.containers"),
        (deployment(initContainers=[{}]), "spec.template.spec.initContainers"),
        (deployment(nodeSelecter={}), "spec.template.spec.nodeSelecter"),
        (deployment(tolerations=[{"operator": "Exists"}]), "spec.template.spec.tolerations.0"),
        (container(envFrom=[]), "spec.template.spec.containers.0.envFrom"),
        (container(env=[{"name": "A", "valueFrom": {}}]), "spec.template.spec.containers.0.env.0.valueFrom"),
        (container(volumeMounts=[{"name": "x"}]), "spec.template.spec.containers.0.volumeMounts.0.name"),
        (container(readinessProbe={"httpGett": {}}), "spec.template.spec.containers.0.readinessProbe.httpGett"),
        ({**deployment(), "spec": {"replica": 1}}, "spec.replica"),
        ({**deployment(), "data": {}}, "data"),
    ],
)
def test_what_cannot_be_taken_over_is_named_by_its_path(document: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as caught:
        translate(document)
    assert path in [field.path for field in caught.value.fields]


def test_one_at_a_time_and_all_at_once() -> None:
    recreate = deployment()
    recreate["spec"] |= {"replicas": 3, "strategy": {"type": "Recreate"}}
    assert translate(recreate).spec["rolling"] == {"max_surge": 0, "max_unavailable": 3}


def test_an_image_that_stands_for_an_environment_wants_a_command() -> None:
    known = {"image": "registry.example/pytorch:2.1-cpu"}
    with pytest.raises(Invalid, match="as it is"):
        translate(container(**known, args=["--x"]))
    out = translate(container(**known, command=["python"], args=["app.py"]))
    assert (out.spec["processor"], out.spec["command"]) == ("command", ["python", "app.py"])


def test_their_service_is_not_ours() -> None:
    assert is_endpoint({"apiVersion": "v1", "kind": "Service"})
    assert not is_endpoint({"apiVersion": "modelworks/v1", "kind": "Service"})
    assert not is_endpoint({"kind": "Service"})
