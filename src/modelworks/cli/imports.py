"""Documents of other systems among manifests: the cloud's service JSON, Kubernetes' Deployments."""

from __future__ import annotations

from modelworks.kernel.errors import FieldError, Invalid
from modelworks.sdk import kubernetes, service_json
from modelworks.sdk.client import Document
from modelworks.sdk.services import KIND
from modelworks.sdk.translation import Translation


def imported(document: Document, place: str, name: str | None = None) -> tuple[Document | None, tuple[str, ...]]:
    """The document as a manifest, and notes on what has no effect here; None for one that nothing is made of.

    ``place`` is where it was written, ``name`` what the service is called when the document says nothing of it: with
    one, any document without a kind is the cloud's. Raises Invalid with the paths of what cannot be taken over.
    """
    if kubernetes.is_endpoint(document):
        return None, (f"{place}: a Service of Kubernetes is not needed: each service has an endpoint of its own",)
    bare = name is not None and "kind" not in document
    if not (bare or kubernetes.is_deployment(document) or service_json.is_service_json(document)):
        return document, ()
    translate = kubernetes.translate if kubernetes.is_deployment(document) else service_json.translate
    try:
        return _manifest(translate(document), name)
    except Invalid as error:
        fields = tuple(FieldError(f"{place}: {field.path}", field.message) for field in error.fields)
        raise Invalid(error.detail, fields=fields, remedy=error.remedy) from None


def _manifest(translation: Translation, name: str | None) -> tuple[Document, tuple[str, ...]]:
    name = translation.name or name
    if name is None:
        raise Invalid("a service has a name", fields=(FieldError("name", "is needed"),))
    labels = {"labels": translation.labels} if translation.labels else {}
    manifest = {"kind": KIND, "metadata": {"name": name, **labels}, "spec": translation.spec}
    return manifest, tuple(translation.notes)
