"""Models: a folder of files, or a registered version, and how they become services."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelworks.kernel.errors import Conflict, Invalid, NotFound
from modelworks.objectstore import transfer
from modelworks.sdk import code, services
from modelworks.sdk.client import Client, Document
from modelworks.sdk.inference import InferenceSpec as InferenceSpec
from modelworks.sdk.inference import container_serving_spec as container_serving_spec
from modelworks.sdk.objects import open_store, parse_uri, workspace_bucket
from modelworks.sdk.predictor import Predictor
from modelworks.sdk.serializers import Serializer
from modelworks.sdk.service_json import Translation
from modelworks.sdk.session import Session, get_default_session, warn_unknown, warn_unused
from modelworks.sdk.text import resource_name

_REMOTE = ("s3://", "oss://")


class Model:
    """``model_data`` is a folder or file: ``s3://``, ``oss://`` or local; None when the spec names it or needs none."""

    def __init__(
        self,
        model_data: str | None = None,
        inference_spec: InferenceSpec | None = None,
        session: Session | None = None,
    ) -> None:
        self.model_data = str(model_data) if model_data is not None else None
        self.inference_spec = inference_spec
        self.session = session or get_default_session()

    def deploy(
        self,
        service_name: str,
        instance_count: int | None = None,
        instance_type: str | None = None,
        resource_config: Mapping[str, Any] | None = None,
        resource_id: str | None = None,
        options: Mapping[str, Any] | None = None,
        service_type: str | None = None,
        wait: bool = True,
        serializer: Serializer | None = None,
        inference_method: str | None = None,
        inference_spec: InferenceSpec | None = None,
        **unknown: Any,
    ) -> Predictor:
        """Create or change a service. ``resource_config`` is ``{cpu, memory, gpu}`` (memory in MB, or ``2Gi``).

        ``options`` are service JSON, also dotted. ``instance_count`` is one when the options say nothing of it, and
        what autoscaling begins with. ``service_type`` ``"Async"`` makes an asynchronous service. Raises Invalid for
        wrong input, WorkloadFailed when the service does not become ready.
        """
        warn_unknown("Model.deploy", unknown)
        warn_unused(
            "Model.deploy",
            {"resource_id": resource_id, "inference_method": inference_method},
        )
        spec = InferenceSpec(**(inference_spec or self.inference_spec or InferenceSpec()).to_dict())
        spec.merge_options(options or {})
        if service_type is not None:
            spec.add_option("metadata.type", service_type)
        if instance_count is not None:
            spec.add_option("metadata.instance", instance_count)
        translation = spec.translation()
        service = self._service_spec(translation, instance_type, resource_config)
        manifest = {
            "kind": services.KIND,
            "metadata": {
                "name": service_name,
                "workspace": self.session.workspace,
                **({"labels": translation.labels} if translation.labels else {}),
            },
            "spec": service,
        }
        client = self.session.client
        (applied,) = client.apply([manifest])
        for note in [*translation.notes, *applied.get("notes", ())]:
            print_note(note)
        if wait:
            services.check_ready(services.wait_ready(client, service_name))
        return Predictor(service_name, serializer=serializer, session=self.session)

    def register(
        self,
        model_name: str,
        version: str | int | None = None,
        *,
        metrics: Mapping[str, Any] | None = None,
        description: str | None = None,
        version_labels: Mapping[str, Any] | None = None,
        **unused: Any,
    ) -> RegisteredModel:
        """A new version of a registered model. The platform counts versions: ``version`` must be the next one."""
        warn_unused("Model.register", {"version_labels": version_labels, **unused})
        uri = self._remote_model()
        if uri is None:
            raise Invalid("a model without model_data cannot be registered")
        client = self.session.client
        if version is not None:
            known = [int(item["version"]) for item in _versions(self.session, model_name)]
            following = max(known, default=0) + 1
            if str(version) != str(following):
                raise Conflict(f"the next version of {model_name} is {following}, not {version}", remedy="omit version")
        made = client.register_version(resource_name(model_name), uri=uri, metrics=metrics, description=description)
        return RegisteredModel(resource_name(model_name), made["version"], session=self.session)

    def _service_spec(
        self,
        translation: Translation,
        instance_type: str | None,
        resource_config: Mapping[str, Any] | None,
    ) -> dict[str, Any]:
        spec = dict(translation.spec)
        if resource_config:
            memory = resource_config.get("memory")
            sized = {**resource_config, "memory": f"{memory}Mi"} if isinstance(memory, int) else dict(resource_config)
            spec["resources"] = sized
        if instance_type is not None:
            spec["instance_type"] = instance_type
            spec.pop("resources", None)
        model = self._remote_model() or spec.get("model")
        if model is not None:
            spec["model"] = model
        source = spec.get("code")
        if source is not None and not str(source).startswith(_REMOTE):
            spec["code"] = code.upload(self.session.client, Path(source).expanduser())
        return spec

    def _remote_model(self) -> str | None:
        """``model_data`` as something the platform can read: a local folder is uploaded, named by its content."""
        data = self.model_data
        if data is None or data.startswith(_REMOTE):
            return data
        path = Path(data.removeprefix("file://")).expanduser()
        if not path.exists():
            raise NotFound(f"there is no model at {path}")
        return upload_model(self.session.client, path)


class RegisteredModel(Model):
    """A version of a registered model: ``model_version`` a number, an alias, or None for the latest."""

    def __init__(
        self,
        model_name: str,
        model_version: str | int | None = None,
        model_provider: str | None = None,
        session: Session | None = None,
        inference_spec: InferenceSpec | None = None,
    ) -> None:
        super().__init__(None, inference_spec, session)
        warn_unused("RegisteredModel", {"model_provider": model_provider})
        self.model_name = model_name
        text = None if model_version is None else str(model_version)
        separator = ":" if text is None or text.isdigit() else "@"
        self.reference = model_name if text is None else f"{model_name}{separator}{text}"
        self.model_version = text

    def describe(self) -> Document:
        """The version's record: uri, digest, size, metrics, lineage."""
        if self.model_version is not None and self.model_version.isdigit():
            return self.session.client.model_version(self.model_name, self.model_version)
        if self.model_version is not None:
            aliases = self.session.client.get("Model", self.model_name)["spec"].get("aliases") or {}
            if self.model_version not in aliases:
                raise NotFound(f"model {self.model_name} has no alias {self.model_version}")
            return self.session.client.model_version(self.model_name, int(aliases[self.model_version]))
        versions = self.session.client.model_versions(self.model_name)
        if not versions:
            raise NotFound(f"model {self.model_name} has no versions")
        return max(versions, key=lambda item: int(item["version"]))

    def _remote_model(self) -> str | None:
        return self.reference


def upload_model(client: Client, path: Path, *, send: bool = True) -> str:
    """A local file or folder of model files in the workspace's bucket, below its digest: the folder's ``s3://`` URI.

    ``send`` False only says what it would be called.
    """
    prefix = f"s3://{workspace_bucket(client.workspace)}/uploads/{code.tree_digest(path)}/"
    if not send:
        return prefix
    uri = parse_uri(prefix)
    store = open_store(client, read=[prefix], write=[prefix])
    if path.is_file():
        transfer.upload(store, path, uri / path.name)
    else:
        transfer.upload_tree(store, path, uri)
    return prefix


def print_note(text: str) -> None:
    sys.stderr.write(f"note: {text}\n")


def _versions(session: Session, name: str) -> list[Document]:
    try:
        return session.client.model_versions(resource_name(name))
    except NotFound:
        return []
