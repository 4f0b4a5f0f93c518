"""Training jobs of other systems as TrainingJobs: Kubeflow's kinds, the cloud's CreateJob JSON, `dlc` flags."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from modelworks.kernel.errors import Invalid
from modelworks.products.training.spec import TrainingJobSpec
from modelworks.sdk import dlc, job_json, job_yaml
from modelworks.sdk.job_draft import KINDS, JobDraft

PYTORCH = """
apiVersion: kubeflow.org/v1
kind: PyTorchJob
metadata: {name: mnist, namespace: team-a, labels: {team: a}}
spec:
  nprocPerNode: "2"
  runPolicy: {cleanPodPolicy: None, backoffLimit: 4, activeDeadlineSeconds: 3600, ttlSecondsAfterFinished: 60}
  pytorchReplicaSpecs:
    Worker:
      replicas: 3
      restartPolicy: OnFailure
      template:
        metadata: {annotations: {sidecar.istio.io/inject: "false"}}
        spec:
          nodeSelector: {pool: gpu}
          containers:
            - name: pytorch
              image: registry.example/torch:2
              command: [torchrun, train.py]
              args: ["--rank=$(RANK)"]
              env: [{name: EPOCHS, value: 3}]
              resources: {limits: {nvidia.com/gpu: 2, cpu: "8", memory: 32Gi}}
              volumeMounts:
                - {name: data, mountPath: /mnt/data}
                - {name: data, mountPath: /data/all}
                - {name: out, mountPath: /mnt/output}
                - {name: shm, mountPath: /dev/shm}
          volumes:
            - {name: data, persistentVolumeClaim: {claimName: faces, readOnly: true}}
            - {name: out, persistentVolumeClaim: {claimName: results}}
            - {name: shm, emptyDir: {medium: Memory}}
    Master:
      replicas: 1
      restartPolicy: OnFailure
      template:
        spec:
          nodeSelector: {pool: gpu}
          containers:
            - name: pytorch
              image: registry.example/torch:2
              command: [torchrun, train.py]
              args: ["--rank=$(RANK)"]
              resources: {limits: {nvidia.com/gpu: 1}}
"""


def parsed(draft: JobDraft) -> TrainingJobSpec:
    """What is made is always a TrainingJob."""
    return TrainingJobSpec.parse(draft.spec, at="spec")


def of_yaml(text: str) -> JobDraft:
    return job_yaml.translate(yaml.safe_load(text))


def refused(document: dict[str, Any]) -> dict[str, str]:
    """The errors by path."""
    translate = job_yaml.translate if job_yaml.is_job(document) else job_json.translate
    with pytest.raises(Invalid) as caught:
        translate(document)
    return {field.path: field.message for field in caught.value.fields}


def replicas(**fields: Any) -> dict[str, Any]:
    """A role of Kubeflow's, with one container."""
    container = {"name": "c", "image": "torch", "command": ["python", "t.py"], **fields.pop("container", {})}
    return {"replicas": 1, "template": {"spec": {"containers": [container], **fields.pop("pod", {})}}, **fields}


def job(kind: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "kubeflow.org/v1", "kind": kind, "metadata": {"name": "j"}, "spec": spec}


@pytest.mark.parametrize("version", ["kubeflow.org/v1", "training.pai.alibaba.com/v1"])
def test_a_pytorch_job_is_taken_over(version: str) -> None:
    draft = of_yaml(PYTORCH.replace("kubeflow.org/v1", version))
    assert (draft.name, draft.labels) == ("mnist", {"team": "a"})
    assert draft.spec == {
        "command": ["torchrun", "train.py", "--rank=$(RANK)"],
        "environment": {"image": "registry.example/torch:2"},
        "processes": 2,
        "retries": 4,
        "time_limit": "3600s",
        "restart_policy": "OnFailure",
        "node_selector": {"pool": "gpu"},
        "output": "s3://results/",
        "volumes": [
            {"name": "faces", "mount_path": "/mnt/data", "read_only": True},
            {"name": "faces", "mount_path": "/data/all", "read_only": True},
        ],
        "roles": [
            {"name": "master", "replicas": 1, "resources": {"gpu": 1}},
            {
                "name": "worker",
                "replicas": 3,
                "resources": {"gpu": 2, "cpu": "8", "memory": "32Gi"},
                "env": {"EPOCHS": "3"},
            },
        ],
    }
    assert draft.notes == [
        "metadata.namespace has no effect here: a job is in the workspace of --workspace",
        "spec.runPolicy.ttlSecondsAfterFinished has no effect here: "
        "a job stays until it is deleted (`mw job delete NAME`)",
    ]
    assert parsed(draft).size == 4


def test_one_role_is_a_job_of_replicas() -> None:
    draft = job_yaml.translate(
        job("PyTorchJob", {"pytorchReplicaSpecs": {"Worker": replicas(replicas=2), "Master": replicas(replicas=0)}})
    )
    assert draft.spec == {"command": ["python", "t.py"], "environment": "torch", "replicas": 2}


def test_a_tensorflow_job_has_its_roles_in_order() -> None:
    roles = {"PS": replicas(replicas=2), "Worker": replicas(replicas=3), "Chief": replicas(), "Evaluator": replicas()}
    spec = parsed(job_yaml.translate(job("TFJob", {"tfReplicaSpecs": roles})))
    assert spec.framework == "tensorflow"
    assert [(role.name, role.replicas) for role in spec.roles] == [
        ("chief", 1), ("worker", 3), ("ps", 2), ("evaluator", 1),
    ]  # fmt: skip


def test_an_mpi_jobs_workers_wait_for_the_launcher() -> None:
    launcher = replicas(container={"command": ["mpirun", "-np", "4", "python", "t.py"]})
    worker = replicas(replicas=2, container={"command": ["/usr/sbin/sshd", "-De"]})
    draft = job_yaml.translate(
        job("MPIJob", {"slotsPerWorker": 2, "mpiReplicaSpecs": {"Worker": worker, "Launcher": launcher}})
    )
    spec = parsed(draft)
    assert (spec.framework, spec.processes, spec.command[0]) == ("mpi", 2, "mpirun")
    assert [(role.name, role.command) for role in spec.roles] == [("launcher", None), ("worker", None)]
    assert any("is not run" in note for note in draft.notes)
    wrong = refused(job("MPIJob", {"mpiImplementation": "Intel", "mpiReplicaSpecs": {"Launcher": launcher}}))
    assert "OpenMPI" in wrong["spec.mpiImplementation"]


def test_elastic_jobs() -> None:
    policy = {"minReplicas": 1, "maxReplicas": 4, "maxRestarts": 7, "rdzvBackend": "c10d"}
    draft = job_yaml.translate(
        job("PyTorchJob", {"elasticPolicy": policy, "pytorchReplicaSpecs": {"Worker": replicas(replicas=2)}})
    )
    assert (draft.spec["replicas"], draft.spec["retries"]) == ({"min": 1, "max": 4}, 7)
    roles = {"AIMaster": replicas(), "Worker": replicas(replicas=3)}
    draft = job_yaml.translate(job("ElasticBatchJob", {"elasticBatchReplicaSpecs": roles}))
    assert draft.spec["replicas"] == {"min": 1, "max": 3}
    assert parsed(draft).elastic is not None
    led = {"Master": replicas(), "Worker": replicas(replicas=3)}
    draft = job_yaml.translate(job("PyTorchJob", {"elasticPolicy": policy, "pytorchReplicaSpecs": led}))
    assert draft.spec["replicas"] == {"min": 2, "max": 5}
    led["Worker"] = replicas(container={"command": ["other"]})
    wrong = refused(job("PyTorchJob", {"elasticPolicy": policy, "pytorchReplicaSpecs": led}))
    assert "alike" in wrong["spec.pytorchReplicaSpecs.Worker"]


@pytest.mark.parametrize(
    ("policy", "limit", "said", "retries"),
    [("OnFailure", None, "OnFailure", 3), ("Never", 5, "Never", None), ("ExitCode", 6, "ExitCode", 6)],
)
def test_restart_policies_imply_retries(policy: str, limit: int | None, said: str, retries: int | None) -> None:
    run = {"runPolicy": {"backoffLimit": limit}} if limit is not None else {}
    draft = job_yaml.translate(job("TFJob", {**run, "tfReplicaSpecs": {"Worker": replicas(restartPolicy=policy)}}))
    assert (draft.spec["restart_policy"], draft.spec.get("retries")) == (said, retries)
    parsed(draft)


_WORKER = "spec.pytorchReplicaSpecs.Worker"
_CONTAINER = f"{_WORKER}.template.spec.containers.0"


@pytest.mark.parametrize(
    ("role", "path", "said"),
    [
        (replicas(replica=2), f"{_WORKER}.replica", "unknown field"),
        (replicas(restartPolicy="Sometimes"), f"{_WORKER}.restartPolicy", "the policies are"),
        (replicas(pod={"initContainers": []}), f"{_WORKER}.template.spec.initContainers", "nothing that runs before"),
        (replicas(pod={"nodeSelectr": {}}), f"{_WORKER}.template.spec.nodeSelectr", "unknown field"),
        (replicas(container={"imgae": "x"}), f"{_CONTAINER}.imgae", "unknown field"),
        (replicas(container={"envFrom": []}), f"{_CONTAINER}.envFrom", "write env"),
        (
            replicas(container={"volumeMounts": [{"name": "d", "mountPath": "/d"}]}),
            f"{_CONTAINER}.volumeMounts.0.name",
            "there is no volume",
        ),
        (
            replicas(
                container={"volumeMounts": [{"name": "d", "mountPath": "/d"}]},
                pod={"volumes": [{"name": "d", "hostPath": {"path": "/d"}}]},
            ),
            f"{_CONTAINER}.volumeMounts.0",
            "hostPath cannot be mounted",
        ),
    ],
)
def test_what_cannot_be_taken_over_is_named(role: dict[str, Any], path: str, said: str) -> None:
    assert said in refused(job("PyTorchJob", {"pytorchReplicaSpecs": {"Worker": role}}))[path]


def test_other_mistakes_of_a_document() -> None:
    good = {"pytorchReplicaSpecs": {"Worker": replicas()}}
    assert "kubeflow.org/v1" in refused({**job("PyTorchJob", good), "apiVersion": "batch/v1"})["apiVersion"]
    assert refused(job("PyTorchJob", {**good, "replicas": 2})) == {"spec.replicas": "unknown field"}
    assert "a TFJob" in refused(job("PyTorchJob", {"tfReplicaSpecs": {}}))["spec.tfReplicaSpecs"]
    two = {"Worker": replicas(), "Master": replicas(container={"image": "other"})}
    assert any("one environment" in said for said in refused(job("PyTorchJob", {"pytorchReplicaSpecs": two})).values())


READ_ONLY = "read-only here: what is to stay goes to /mnt/output"
CREATE = {
    "DisplayName": "My_Job 1",
    "JobType": "PyTorchJob",
    "UserCommand": "torchrun train.py",
    "WorkspaceId": "268",
    "Envs": {"A": "1"},
    "Priority": 5,
    "JobMaxRunningTimeMinutes": 90,
    "ThirdpartyLibs": ["numpy==2.4.6"],
    "DataSources": [
        {"Uri": "oss://faces.oss-cn-hangzhou.aliyuncs.com/train/", "MountPath": "/mnt/data/"},
        {"Uri": "oss://faces/val/", "MountPath": "/root/val"},
        {"Uri": "oss://out/run/", "MountPath": "/ml/output/model"},
        {"DataSourceId": "d-abc", "MountPath": "/data/abc", "MountAccess": "RO"},
    ],
    "JobSpecs": [
        {
            "Type": "Worker",
            "PodCount": 2,
            "Image": "registry.example/torch:2",
            "EcsSpec": "ecs.gn6v-c8g1.2xlarge",
            "SpotSpec": {"SpotStrategy": "SpotWithPriceLimit", "SpotDiscountLimit": 0.5},
            "RestartPolicy": "OnFailure",
        }
    ],
    "Settings": {"Tags": {"team": "a"}, "EnableRDMA": True},
}


def test_create_job_json_is_taken_over() -> None:
    assert job_json.is_job_json(CREATE)
    draft = job_json.translate(CREATE)
    assert (draft.name, draft.labels) == ("my-job-1", {"team": "a"})
    assert draft.spec == {
        "command": "torchrun train.py",
        "environment": {"requirements": ["numpy==2.4.6"]},
        "env": {"A": "1"},
        "priority": 5,
        "time_limit": "90m",
        "inputs": {"data": "oss://faces.oss-cn-hangzhou.aliyuncs.com/train/"},
        "mounts": {"/root/val": "oss://faces/val/"},
        "output": "oss://out/run/",
        "volumes": [{"name": "d-abc", "mount_path": "/data/abc", "read_only": True}],
        "spot": {"price_limit": 0.5},
        "instance_type": "ecs.gn6v-c8g1.2xlarge",
        "replicas": 2,
        "restart_policy": "OnFailure",
        "retries": 3,
    }
    assert parsed(draft).time_limit == 5400
    assert [note.partition(" has")[0] for note in draft.notes] == [
        "WorkspaceId", f"DataSources with a Uri are {READ_ONLY}", "Settings.EnableRDMA", "JobSpecs.0.Image",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source", "noted"),
    [
        ({"MountPath": "/mnt/data"}, [f"DataSources with a Uri are {READ_ONLY}"]),
        ({"MountPath": "/root/val", "MountAccess": "RO"}, []),
        (
            {"MountPath": "/mnt/data", "MountAccess": "RW"},
            [f"DataSources.0.MountAccess has no effect here: it is {READ_ONLY}"],
        ),
        ({"MountPath": "/mnt/output"}, []),
        ({"MountPath": "/ml/usercode/"}, []),
    ],
)
def test_a_source_that_is_read_only_is_noted(source: dict[str, str], noted: list[str]) -> None:
    document = {
        "UserCommand": "x",
        "DataSources": [{"Uri": "oss://faces/train/", **source}],
        "JobSpecs": [{"PodCount": 1}],
    }
    assert job_json.translate(document).notes == noted


def test_create_job_json_of_several_roles_shares_its_variables() -> None:
    roles = [
        {"Type": "PS", "PodCount": 1, "ResourceConfig": {"CPU": "2", "Memory": "4Gi"}},
        {"Type": "Worker", "PodCount": 2, "ResourceConfig": {"CPU": 4, "Memory": 8, "GPU": "1", "GPUType": "V100"}},
    ]
    document = {"DisplayName": "tf", "JobType": "TFJob", "UserCommand": "x", "Envs": {"A": "1"}, "JobSpecs": roles}
    draft = job_json.translate(document)
    assert draft.spec["env"] == {"A": "1"}
    assert draft.spec["roles"] == [
        {
            "name": "worker",
            "replicas": 2,
            "resources": {"cpu": 4, "memory": "8Gi", "gpu": 1, "gpu_model": "V100"},
        },
        {"name": "ps", "replicas": 1, "resources": {"cpu": "2", "memory": "4Gi"}},
    ]
    parsed(draft)


def test_elastic_and_spot_of_create_job_json() -> None:
    document = {
        "DisplayName": "e", "UserCommand": "x",
        "JobSpecs": [{"Type": "Worker", "PodCount": 2, "UseSpotInstance": True}],
        "ElasticSpec": {"EnableElasticTraining": True, "MinParallelism": 1, "MaxParallelism": 3},
    }  # fmt: skip
    spec = parsed(job_json.translate(document))
    assert (spec.spot is not None, spec.elastic is not None and spec.elastic.max) == (True, 3)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"JobType": "SlurmJob"}, "JobType"),
        ({"UserComand": "x"}, "UserComand"),
        ({"UserCommand": None, "JobSpecs": 3}, "JobSpecs"),
        ({"DataSources": [{"MountPath": "/x"}]}, "DataSources.0"),
        ({"DataSources": [{"Uri": "nas://x/", "MountPath": "/x"}]}, "DataSources.0.Uri"),
        ({"JobSpecs": [{"Type": "Worker", "PodCont": 1}]}, "JobSpecs.0.PodCont"),
        ({"JobSpecs": [{"ResourceConfig": {"Cpu": 1}}]}, "JobSpecs.0.ResourceConfig.Cpu"),
        ({"JobSpecs": [{"PodCount": "two"}]}, "JobSpecs.0"),
        ({"JobMaxRunningTimeMinutes": "soon"}, "JobMaxRunningTimeMinutes"),
        ({"Settings": {"Tagz": {}}}, "Settings.Tagz"),
    ],
)
def test_what_is_wrong_in_create_job_json_is_named(change: dict[str, Any], path: str) -> None:
    assert path in refused({**CREATE, **change})


def test_flags_of_dlc() -> None:
    draft = dlc.translate(
        "pytorchjob",
        {
            "name": "t", "command": "torchrun train.py", "workers": 2, "worker_image": "torch", "worker_cpu": "4",
            "worker_memory": "8Gi", "masters": 1, "master_cpu": "2", "envs": "A=1,B=x,y", "priority": 3,
            "data_sources": "faces:/mnt/faces,oss://b/d/:/mnt/data,scratch", "job_max_running_time_minutes": 0,
        },
    )  # fmt: skip
    assert draft.spec == {
        "command": "torchrun train.py",
        "environment": "torch",
        "env": {"A": "1", "B": "x,y"},
        "priority": 3,
        "inputs": {"data": "oss://b/d/"},
        "volumes": [{"name": "faces", "mount_path": "/mnt/faces"}, {"name": "scratch", "mount_path": "/mnt/data"}],
        "roles": [
            {"name": "master", "replicas": 1, "resources": {"cpu": "2"}},
            {"name": "worker", "replicas": 2, "resources": {"cpu": "4", "memory": "8Gi"}},
        ],
    }


def test_what_is_wrong_in_flags_is_told_as_flags() -> None:
    with pytest.raises(Invalid) as caught:
        dlc.translate("tfjob", {"workers": 1})
    assert [field.path for field in caught.value.fields] == ["--name", "--command"]
    with pytest.raises(Invalid, match="kinds are pytorchjob"):
        dlc.translate("raysjob", {})
    with pytest.raises(Invalid) as caught:
        dlc.translate("tfjob", {"name": "a", "command": "x", "data_sources": "nas://x/:/mnt/x"})
    assert [field.path for field in caught.value.fields] == ["--data_sources"]


@given(
    kind=st.sampled_from(KINDS),
    counts=st.dictionaries(st.sampled_from(["Master", "Worker", "PS", "Launcher"]), st.integers(0, 5), min_size=1),
    cpu=st.integers(1, 8),
)
def test_whatever_is_made_is_a_job_of_that_size(kind: str, counts: dict[str, int], cpu: int) -> None:
    specs = [{"Type": role, "PodCount": n, "ResourceConfig": {"CPU": cpu}} for role, n in counts.items()]
    document = {"DisplayName": "j", "JobType": kind, "UserCommand": "x", "JobSpecs": specs}
    try:
        draft = job_json.translate(document)
    except Invalid:
        return
    spec = parsed(draft)
    assert spec.size == sum(counts.values())
