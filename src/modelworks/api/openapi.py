"""The OpenAPI document: FastAPI's, with the problems that every operation may answer and an example of everything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from modelworks.api import examples
from modelworks.api.problems import DESCRIPTIONS, MEDIA_TYPE, Problem
from modelworks.products.kind import Kind

_SCHEMAS = "#/components/schemas/"
# Products know no shape of the API's documents: these answer with the document of the resource.
_RESOURCES = (
    "cancelJob", "preemptJob", "startService", "stopService", "changeServiceCanary", "rollBackService", "resumeService",
)  # fmt: skip


def install(app: FastAPI, kinds: Mapping[str, Kind]) -> None:
    """Let the app describe itself completely; the document is made once, when it is first asked for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app, kinds)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _document(app: FastAPI, kinds: Mapping[str, Kind]) -> dict[str, Any]:
    document = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = document["components"]["schemas"]
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    problem = Problem.model_json_schema(ref_template=f"{_SCHEMAS}{{model}}")
    schemas |= problem.pop("$defs", {})
    schemas["Problem"] = problem
    answers = examples.answers(kinds)
    for path in document["paths"].values():
        for operation in path.values():
            if operation["operationId"] in _RESOURCES:
                operation["responses"]["202"]["content"]["application/json"]["schema"] = _ref("ResourceDocument")
            for response in operation["responses"].values():
                for media_type, media in response.get("content", {}).items():
                    _show(media_type, media, answers)
            operation["responses"] |= _problems()
    apply = document["paths"]["/api/v1/apply"]["post"]
    apply["requestBody"]["content"]["application/json"]["examples"] = examples.requests(kinds)
    return document


def _show(media_type: str, media: dict[str, Any], answers: Mapping[str, Any]) -> None:
    name = media["schema"].get("$ref", "").removeprefix(_SCHEMAS)
    if name in answers:
        media["example"] = answers[name]
    elif media_type in examples.STREAMS:
        media["example"] = examples.STREAMS[media_type]


def _problems() -> dict[str, Any]:
    return {
        str(status): {
            "description": description,
            "content": {MEDIA_TYPE: {"schema": _ref("Problem"), "example": examples.problem(status, description)}},
        }
        for status, description in DESCRIPTIONS.items()
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"{_SCHEMAS}{name}"}
