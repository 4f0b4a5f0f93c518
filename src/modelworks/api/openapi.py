"""The OpenAPI document: FastAPI's, with the problems that every operation may answer and an example of every kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from modelworks.api.problems import DESCRIPTIONS, MEDIA_TYPE, Problem
from modelworks.products.kind import Kind

_REFERENCE = {"$ref": "#/components/schemas/Problem"}


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
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas |= problem.pop("$defs", {})
    schemas["Problem"] = problem
    for path in document["paths"].values():
        for operation in path.values():
            for status, description in DESCRIPTIONS.items():
                operation["responses"][str(status)] = {
                    "description": description,
                    "content": {MEDIA_TYPE: {"schema": _REFERENCE}},
                }
    apply = document["paths"]["/api/v1/apply"]["post"]
    schemas["ApplyRequest"].pop("examples", None)
    apply["requestBody"]["content"]["application/json"]["examples"] = {
        kind.name: {"summary": f"A {kind.name}", "value": {"manifests": [kind.example], "dry_run": True}}
        for kind in kinds.values()
    }
    return document
