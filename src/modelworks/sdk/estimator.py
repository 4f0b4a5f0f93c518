"""Training by the cloud's SDK: what to run, and ``fit``."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from modelworks.kernel.errors import Invalid, NotFound
from modelworks.sdk import code, git_source, job_options, jobs, local
from modelworks.sdk.client import Document
from modelworks.sdk.inference import InferenceSpec
from modelworks.sdk.model import Model, print_note
from modelworks.sdk.objects import workspace_bucket
from modelworks.sdk.predictor import Predictor
from modelworks.sdk.service_json import environment_of
from modelworks.sdk.session import Session, get_default_session, warn_unknown, warn_unused
from modelworks.sdk.text import CallableStr, Utf8Writer, resource_name
from modelworks.sdk.waiting import status_of

_REMOTE = ("s3://", "oss://")


class Estimator:
    """A command, what it needs, and what it runs on. ``max_run_time`` is in seconds.

    ``instance_type="local"`` runs ``fit`` on this machine without the platform. ``input_channels`` are the inputs of
    ``fit`` when it is given none. What has no meaning on this platform is accepted with a warning.
    """

    def __init__(
        self,
        image_uri: str | None = None,
        command: str | list[str] | None = None,
        source_dir: str | None = None,
        git_config: dict[str, str] | None = None,
        job_type: str = "PyTorchJob",
        hyperparameters: dict[str, Any] | None = None,
        environments: dict[str, str] | None = None,
        requirements: list[str] | None = None,
        base_job_name: str | None = None,
        max_run_time: int | None = None,
        checkpoints_path: str | None = None,
        output_path: str | None = None,
        metric_definitions: list[dict[str, Any]] | None = None,
        instance_type: str | None = None,
        instance_count: int | None = None,
        user_vpc_config: Any = None,
        experiment_config: Any = None,
        resource_id: str | None = None,
        session: Session | None = None,
        spot_spec: Any = None,
        instance_spec: Any = None,
        resource_type: str | None = None,
        settings: Any = None,
        labels: dict[str, str] | None = None,
        input_channels: Mapping[str, str] | None = None,
        spot_instance: bool | None = None,
        **unknown: Any,
    ) -> None:
        warn_unknown("Estimator", unknown)
        warn_unused(
            "Estimator",
            {
                "user_vpc_config": user_vpc_config,
                "resource_id": resource_id,
                "resource_type": resource_type,
                "settings": settings,
            },
        )
        if image_uri and requirements:
            said = f"Estimator: the requirements make an environment of their own, in place of the image {image_uri}"
            warnings.warn(said, UserWarning, stacklevel=2)
        if not command:
            raise Invalid("an Estimator needs a command", remedy='Estimator(command="python train.py", …)')
        self.image_uri = image_uri
        self.command = command
        self.source_dir = source_dir
        self.git_config = dict(git_config or {})
        self.job_type = job_type
        self.checkpoints_path = checkpoints_path
        self.metric_definitions = list(metric_definitions or [])
        self.experiment_config = experiment_config
        self.spot_spec = spot_spec
        self.spot_instance = spot_instance
        self.hyperparameters = dict(hyperparameters or {})
        self.environments = dict(environments or {})
        self.requirements = list(requirements or [])
        self.base_job_name = base_job_name
        self.max_run_time = max_run_time
        self.output_path = output_path
        self.instance_type = instance_type
        self.instance_count = instance_count
        self.instance_spec = instance_spec
        self.labels = dict(labels or {})
        self.input_channels = dict(input_channels or {})
        self._session = session
        self.latest_job_name: str | None = None
        self._local_output: Path | None = None

    @property
    def session(self) -> Session:
        if self._session is None:
            self._session = get_default_session()
        return self._session

    def fit(
        self,
        inputs: Mapping[str, str] | None = None,
        outputs: str | None = None,
        wait: bool = True,
        show_logs: bool = True,
        job_name: str | None = None,
    ) -> Estimator:
        """Run the job; ``inputs`` maps channels to ``s3://`` or ``oss://`` URIs (for ``local`` also to folders).

        With ``wait`` its log is shown (``show_logs``) and WorkloadFailed is raised when it fails. ``outputs`` is where
        the output goes, instead of ``output_path``. A ``job_name`` becomes a valid one: ``My_Job`` is ``my-job``.
        """
        wanted = job_name or self.base_job_name or _command_name(self.command)
        name = resource_name(wanted, unique=not job_name)
        manifest = self.manifest(name, inputs, outputs)
        with self._source() as source:
            if self.instance_type == "local":
                self._local_output = local.run(manifest, source=source, output=outputs or self.output_path)
                return self
            client = self.session.client
            if source is not None and not source.startswith(_REMOTE):
                manifest["spec"]["code"] = code.upload(client, Path(source).expanduser())
        (applied,) = client.apply([manifest])
        for note in applied.get("notes", ()):
            print_note(note)
        self.latest_job_name = name
        if wait:
            self.wait(show_logs=show_logs)
        return self

    def wait(self, show_logs: bool = True) -> Document:
        """The latest job, once it has succeeded. What it waits for is said on stderr; Ctrl-C leaves it going on."""
        client, name, told = self.session.client, self._job_name(), jobs.tell_waits(print_note)
        try:
            if show_logs:
                job = jobs.follow(client, name, Utf8Writer(sys.stdout), on_change=told)
            else:
                job = jobs.wait(client, name, on_change=told)
        except KeyboardInterrupt:
            print_note(f"job {name} goes on; come back with `mw job log {name} -f`, end it with `mw job cancel {name}`")
            raise
        return jobs.check(job)

    def manifest(self, name: str, inputs: Mapping[str, str] | None = None, output: str | None = None) -> Document:
        """The TrainingJob that ``fit`` submits; ``code`` is still a folder."""
        channels = dict(inputs or self.input_channels)
        local_run = self.instance_type == "local"
        for channel, uri in channels.items():
            if not local_run and not str(uri).startswith(_REMOTE):
                raise Invalid(
                    f"input {channel}: {uri} is not in the object store",
                    remedy=f"mw bucket upload {uri} s3://BUCKET/{channel}/",
                )
        spec: dict[str, Any] = {
            "command": self.command,
            "code": self.source_dir,
            "environment": self._environment(),
            "instance_type": None if local_run else self.instance_type,
            "resources": job_options.resources(self.instance_spec),
            **job_options.kind(self.job_type, self.instance_count),
            "env": self.environments,
            "hyperparameters": self.hyperparameters,
            "inputs": {channel: str(uri) for channel, uri in channels.items()},
            "output": None if local_run else output or self.output_path or self._bucket_output(name),
            "time_limit": self.max_run_time,
            "checkpoint": {"uri": self.checkpoints_path} if self.checkpoints_path and not local_run else None,
            "metrics": job_options.metrics(self.metric_definitions),
            "experiment": job_options.experiment(self.experiment_config),
        }
        metadata: dict[str, Any] = {"name": name, "workspace": "default" if local_run else self.session.workspace}
        if self.labels:
            metadata["labels"] = self.labels
        spec = {key: value for key, value in spec.items() if value not in (None, {}, [])}
        spot = job_options.spot(self.spot_spec, self.spot_instance)
        if spot is not None:  # an empty one says something, too
            spec["spot"] = spot
        return {"kind": jobs.KIND, "metadata": metadata, "spec": spec}

    @contextmanager
    def _source(self) -> Iterator[str | None]:
        """The folder of the code, for as long as it is read: one of a repository is fetched for that."""
        if not self.git_config:
            yield self.source_dir
            return
        with git_source.checkout(self.git_config, self.source_dir) as folder:
            yield str(folder)

    @property
    def model_data(self) -> CallableStr:
        """Where the model is: an ``s3://`` folder, or a local one after a local run."""
        if self._local_output is not None:
            return CallableStr(self._local_output)
        job = self.session.client.get(jobs.KIND, self._job_name())
        uri = jobs.output_uri(job)
        if uri is None:
            raise NotFound(f"job {self._job_name()} has no output yet: {status_of(job).get('message', '')}")
        return CallableStr(uri)

    @property
    def checkpoints_data(self) -> CallableStr:
        """Where rank 0 of the latest attempt writes its checkpoints, from its start on."""
        if self._local_output is not None:
            return CallableStr(self._local_output.with_name("checkpoints"))
        job = self.session.client.get(jobs.KIND, self._job_name())
        name, uid, attempt = self._job_name(), job["metadata"]["uid"], status_of(job).get("attempt", 1)
        if self.checkpoints_path:
            return CallableStr(f"{self.checkpoints_path.rstrip('/')}/{name}/{uid}/a{attempt}/")
        bucket = workspace_bucket(self.session.workspace)
        return CallableStr(f"s3://{bucket}/jobs/{name}/{uid}/checkpoints/a{attempt}/")

    @property
    def tensorboard_data(self) -> CallableStr:
        """What ``tensorboard --logdir`` takes: a folder in which each attempt has one, from its start on."""
        if self._local_output is not None:
            return CallableStr(self._local_output.with_name("tensorboard"))
        name, bucket = self._job_name(), workspace_bucket(self.session.workspace)
        uid = self.session.client.get(jobs.KIND, name)["metadata"]["uid"]
        return CallableStr(f"s3://{bucket}/jobs/{name}/{uid}/tensorboard/")

    def create_model(self, inference_spec: InferenceSpec | None = None) -> Model:
        return Model(self.model_data(), inference_spec, session=self.session)

    def deploy(self, service_name: str, inference_spec: InferenceSpec | None = None, **options: Any) -> Predictor:
        """Deploy the latest job's model; ``options`` are those of ``Model.deploy``."""
        return self.create_model(inference_spec).deploy(service_name, **options)

    def _environment(self) -> Any:
        if self.requirements:
            return {"requirements": self.requirements}
        return environment_of(self.image_uri) if self.image_uri else None

    def _bucket_output(self, name: str) -> str | None:
        bucket = self.session.oss_bucket_name
        stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
        return f"s3://{bucket}/jobs/{name}/{stamp}/" if bucket else None

    def _job_name(self) -> str:
        if self.latest_job_name is None:
            raise NotFound("this Estimator has run no job yet", remedy="call fit() first")
        return self.latest_job_name


def _command_name(command: str | list[str]) -> str:
    words = command.split() if isinstance(command, str) else list(command)
    script = next((word for word in words if word.endswith((".py", ".sh"))), words[0])
    return Path(script).stem
