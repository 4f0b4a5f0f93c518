"""Images of services: what apply makes of them, and what a replica in one runs."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import pytest

from modelworks.kernel.errors import Invalid
from modelworks.kernel.resource import Metadata
from modelworks.kernel.run import RunSpec
from modelworks.products.kind import Lookup, Resolved
from modelworks.products.serving.resolve import resolve
from modelworks.products.serving.revisions import overlaid, revision
from modelworks.products.serving.runs import Service, run_spec
from modelworks.products.serving.spec import ServiceSpec
from modelworks.settings import Settings

SUBSTITUTIONS = {
    "images": [
        {"from": "*/packages:*", "to": "python-data"},
        {"from": "docker.io/*", "to": "mirror.example/app:1"},
        {"from": "lost:*", "to": "nowhere"},
        {"from": "kept/vllm:1", "to": "kept/vllm:1"},
    ]
}
BOXED: dict[str, Any] = {"processor": "image", "image": "registry.example/app:1"}
PINNED = "registry.example/app:1@sha256:" + "0" * 64


def resolved(spec: dict[str, Any]) -> Resolved:
    settings = Settings.parse({"substitutions": SUBSTITUTIONS})
    connection = Mock(name="connection")
    connection.scalars.return_value = []
    lookup = Lookup(connection, settings, lambda workspace, kind, name: None)
    return resolve(Metadata(name="app"), ServiceSpec.parse(spec, at="spec"), lookup)


def run_of(spec: dict[str, Any]) -> RunSpec:
    one, facts = ServiceSpec.parse(spec), resolved(spec).data
    service = Service("0123456789abcdef", "default", "app", one, facts, revision(one, facts))
    return run_spec(service, service.key(0, 0))


def refused(spec: dict[str, Any]) -> Invalid:
    with pytest.raises(Invalid) as error:
        resolved(spec)
    return error.value


def test_an_image_is_meant_as_one() -> None:
    """The shipped aliases are for environments: what a user calls an image is not replaced unasked."""
    spec = BOXED | {"image": "registry.example/pai/pai-image-pytorch:2.3"}
    found = resolved(spec)
    assert found.data["environment"]["image"] == spec["image"]
    assert found.notes == ()
    assert "substitutions" not in found.data


def test_another_image_by_the_settings_is_told() -> None:
    found = resolved(BOXED | {"image": "docker.io/library/app:1"})
    assert found.data["environment"]["image"] == "mirror.example/app:1"
    assert found.notes == ("image docker.io/library/app:1 → mirror.example/app:1 (from the configuration)",)
    assert found.data["substitutions"][0]["requested"] == "docker.io/library/app:1"
    by_environment = {"processor": "command", "command": "serve", "environment": {"image": "docker.io/library/app:1"}}
    assert resolved(by_environment).data["environment"] == found.data["environment"]


def test_packages_by_the_settings_need_a_command() -> None:
    packaged = BOXED | {"image": "registry.example/packages:1"}
    assert refused(packaged).fields[0].path == "spec.command"
    run = run_of(packaged | {"command": ["serve"], "args": ["--port=$(PORT)"]})
    assert run.image is None
    assert (run.command, run.args) == (("serve", "--port=8000"), ())
    template = run_of({"processor": "vllm", "model": "s3://models/a/", "image": "registry.example/packages:1"})
    assert template.command[:4] == ("python", "-m", "modelworks.engines", "vllm")


def test_what_a_substitution_names_must_be_there() -> None:
    assert "no environment is called 'nowhere'" in refused(BOXED | {"image": "lost:1"}).detail


@pytest.mark.parametrize(
    ("given", "command", "args"),
    [
        ({}, (), ()),
        ({"args": ["--port", "$(PORT)", "$$(PORT)"], "port": 90}, (), ("--port", "90", "$(PORT)")),
        ({"command": "serve $(PORT)"}, ("/bin/sh", "-c", "serve ${PORT}"), ()),
        ({"command": ["serve", "$(PORT)"], "args": ["$(A)"], "env": {"A": "b"}}, ("serve", "8000"), ("b",)),
    ],
)
def test_command_and_arguments(given: dict[str, Any], command: tuple[str, ...], args: tuple[str, ...]) -> None:
    run = run_of(BOXED | given)
    assert (run.command, run.args, run.image) == (command, args, BOXED["image"])
    assert run.listen is not None
    assert run.listen.port == given.get("port", 8000)


def test_a_template_in_an_environment_that_is_an_image() -> None:
    spec = {"processor": "vllm", "model": "s3://models/a/"}
    by_field, by_environment = spec | {"image": "x/y:1"}, spec | {"environment": {"image": "x/y:1"}}
    assert run_of(by_field).command == run_of(by_environment).command
    assert run_of(by_field).command[0] == "/bin/sh"


def test_an_alias_that_the_settings_take_away() -> None:
    spec = {"processor": "command", "command": "serve", "environment": {"image": "other/vllm:1"}}
    assert resolved(spec).data["environment"]["name"] == "vllm"
    kept = spec | {"environment": {"image": "kept/vllm:1"}}
    assert resolved(kept).data["environment"]["image"] == "kept/vllm:1"


def test_the_platforms_own_server_is_in_no_image() -> None:
    spec = {"processor": "onnx", "model": "s3://models/a/", "environment": {"image": "x/y:1"}}
    assert refused(spec).fields[0].path == "spec.environment"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"environment": "python-data"}, "either image or environment"),
        ({"command": "serve", "args": ["-v"]}, "args follow a command that is a list"),
        ({"image": "no image"}, "not an image reference"),
        ({"image": None}, "needs image"),
    ],
)
def test_what_makes_no_sense(given: dict[str, Any], said: str) -> None:
    error = refused(BOXED | given)
    assert said in " ".join([error.detail, *(field.message for field in error.fields)])


def test_a_tag_or_digest_makes_another_revision() -> None:
    def of(image: str) -> str:
        return revision(ServiceSpec.parse(BOXED | {"image": image}), resolved(BOXED | {"image": image}).data)

    assert len({of("registry.example/app:1"), of("registry.example/app:2"), of(PINNED)}) == 3
    assert of(PINNED) == of(PINNED)


def test_a_canary_in_an_image_beside_packages() -> None:
    spec = {"processor": "command", "command": "serve", "environment": "python-data"}
    for given, other in (({"image": "x/y:1"}, "environment"), ({"environment": {"image": "x/y:1"}}, "image")):
        over = overlaid(spec | {other: spec.get(other, "x/y:0"), "canary": {"weight": 10, **given}})
        assert other not in over
        assert over.items() >= given.items()
