"""The OpenAPI document is complete: summaries, descriptions, and examples that are as their schemas say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from fastapi import FastAPI

from modelworks.api import openapi
from modelworks.api.app import routes
from modelworks.control.kinds import KINDS


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    app = FastAPI(title="Modelworks", openapi_url="/api/v1/openapi.json")
    routes(app)
    openapi.install(app, KINDS)
    return app.openapi()


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def bodies(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for media in operation.get("requestBody", {}).get("content", {}).values():
        yield "request", media
    for status, response in operation["responses"].items():
        for media in response.get("content", {}).values():
            yield status, media


def examples(media: dict[str, Any], document: dict[str, Any]) -> list[Any]:
    named = media["schema"].get("$ref", "").rpartition("/")[2]
    schema = document["components"]["schemas"].get(named, media["schema"])
    given = [media["example"]] if "example" in media else []
    given += [found["value"] for found in media.get("examples", {}).values()]
    return [*given, *schema.get("examples", [])]


def test_every_operation_says_what_it_does(document: dict[str, Any]) -> None:
    found = list(operations(document))
    assert len(found) > 25
    assert [name for name, operation in found if not operation.get("summary")] == []
    assert [name for name, operation in found if not operation.get("description")] == []
    assert len({operation["operationId"] for _, operation in found}) == len(found)


def test_every_parameter_is_described(document: dict[str, Any]) -> None:
    silent = [
        f"{name}: {parameter['name']}"
        for name, operation in operations(document)
        for parameter in operation.get("parameters", ())
        if not parameter.get("description")
    ]
    assert silent == []


def test_every_body_has_an_example(document: dict[str, Any]) -> None:
    bare = [
        f"{name}: {where}"
        for name, operation in operations(document)
        for where, media in bodies(operation)
        if not examples(media, document)
    ]
    assert bare == []


def test_examples_are_as_their_schemas_say(document: dict[str, Any]) -> None:
    for name, operation in operations(document):
        for where, media in bodies(operation):
            schema = {**media["schema"], "components": document["components"]}
            for example in examples(media, document):
                problems = [error.message for error in jsonschema_rs.iter_errors(schema, example)]
                assert problems == [], f"{name}: {where}"


def test_problems_are_those_of_the_platform(document: dict[str, Any]) -> None:
    for _, operation in operations(document):
        for status, response in operation["responses"].items():
            for media_type, media in response.get("content", {}).items():
                if media_type == "application/problem+json":
                    assert media["example"]["status"] == int(status)
