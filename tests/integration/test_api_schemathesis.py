"""Generated requests over the whole OpenAPI document: no answer is a server error, every answer is as documented."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.api_server import Api, serving

from modelworks.home import Home
from modelworks.objectstore.credentials import Credentials

_STREAMS = {"/api/v1/watch": "timeout", "/api/v1/events": "wait"}

_SAMPLES = [
    {"kind": "Environment", "metadata": {"name": "sample"}, "spec": {"requirements": ["numpy"]}},
    {"kind": "InstanceType", "metadata": {"name": "sample"}, "spec": {"price_per_hour": 1}},
    {"kind": "Volume", "metadata": {"name": "sample"}},
    {"kind": "Bucket", "metadata": {"name": "sample"}},
    {"kind": "Model", "metadata": {"name": "sample"}},
    {"kind": "TrainingJob", "metadata": {"name": "sample"}, "spec": {"command": "true"}},
    {"kind": "Service", "metadata": {"name": "sample"}, "spec": {"processor": "command", "command": "true"}},
]
_CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
_EXAMPLES = {GenerationMode.POSITIVE: 12, GenerationMode.NEGATIVE: 8}


@pytest.fixture
def served(home: Home, database_url: str, store: Credentials) -> Iterator[Api]:
    with serving(home, database_url, store) as api:
        yield api


def test_every_operation_answers_as_documented(served: Api) -> None:
    served.apply(*_SAMPLES)
    schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", served.app)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) > 30
    for operation in operations:
        for mode, count in _EXAMPLES.items():
            if mode is GenerationMode.POSITIVE or operation.body or operation.query:
                _generate(operation, mode, count, served)


def _generate(operation: Any, mode: GenerationMode, count: int, served: Api) -> None:
    headers = {"Authorization": served.client.headers["Authorization"]}
    kinds = cycle(served.context.kinds)

    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.explicit, Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        waits = _STREAMS.get(case.path)
        if waits is not None:
            case.query = {**(case.query or {}), waits: 0}  # what it generates may be an hour
        if mode is GenerationMode.POSITIVE:  # of what is there, rather than of generated names that are not
            there = {"name": "sample", "kind": next(kinds)}
            case.path_parameters = {name: there.get(name, value) for name, value in case.path_parameters.items()}
            if case.query and "workspace" in case.query:
                case.query = {**case.query, "workspace": "default"}
        case.call_and_validate(headers=headers, checks=_CHECKS)

    check()


def test_the_document_is_complete(served: Api) -> None:
    document = served.app.openapi()
    names = set()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            told = f"{method} {path}"
            assert operation["summary"], told
            names.add(operation["operationId"])
            assert any(status.startswith("2") for status in operation["responses"]), told
            problem = operation["responses"]["422"]["content"]["application/problem+json"]
            assert problem["schema"]["$ref"].endswith("/Problem"), told
            if path != "/api/v1/healthz":
                assert operation["security"] == [{"apiKey": []}], told
    assert len(names) == sum(len(methods) for methods in document["paths"].values())
    examples = document["paths"]["/api/v1/apply"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert set(examples) == set(served.context.kinds)
