"""Documents of other systems among manifests: service JSON, CreateJob JSON, Deployments, and the kinds of Kubeflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from modelworks.kernel.errors import FieldError, Invalid
from modelworks.sdk import dlc, job_json, job_yaml, jobs, kubernetes, service_json, services
from modelworks.sdk.client import Document
from modelworks.sdk.translation import Translation


def imported(document: Document, place: str, name: str | None = None) -> tuple[Document | None, tuple[str, ...]]:
    """The document as a manifest, and notes on what has no effect here; None for one that nothing is made of.

    ``place`` is where it was written, ``name`` what the service is called when the document says nothing of it: with
    one, any document without a kind is the cloud's. Raises Invalid with the paths of what cannot be taken over.
    """
    if kubernetes.is_endpoint(document):
        return None, (f"{place}: a Service of Kubernetes is not needed: each service has an endpoint of its own",)
    found = _translator(document, name)
    if found is None:
        return document, ()
    kind, translate = found
    try:
        return _manifest(kind, translate(document), name)
    except Invalid as error:
        fields = tuple(FieldError(f"{place}: {field.path}", field.message) for field in error.fields)
        raise Invalid(error.detail, fields=fields, remedy=error.remedy) from None


def from_flags(kind: str, flags: Mapping[str, Any]) -> tuple[Document, tuple[str, ...]]:
    """The job of `mw job submit KIND --name …`, and notes on what has no effect. Raises Invalid."""
    return _manifest(jobs.KIND, dlc.translate(kind, flags), None)


def _translator(document: Document, name: str | None) -> tuple[str, Callable[[Mapping[str, Any]], Translation]] | None:
    if job_yaml.is_job(document):
        return jobs.KIND, job_yaml.translate
    if job_json.is_job_json(document):
        return jobs.KIND, job_json.translate
    if kubernetes.is_deployment(document):
        return services.KIND, kubernetes.translate
    if (name is not None and "kind" not in document) or service_json.is_service_json(document):
        return services.KIND, service_json.translate
    return None


def _manifest(kind: str, translation: Translation, name: str | None) -> tuple[Document, tuple[str, ...]]:
    name = translation.name or name
    if name is None:
        noun = "service" if kind == services.KIND else "job"
        raise Invalid(f"a {noun} has a name", fields=(FieldError("name", "is needed"),))
    labels = {"labels": translation.labels} if translation.labels else {}
    manifest = {"kind": kind, "metadata": {"name": name, **labels}, "spec": translation.spec}
    return manifest, tuple(translation.notes)
