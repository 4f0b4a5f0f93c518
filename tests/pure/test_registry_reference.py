"""How versions are named, and what is told of a model."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from modelworks.kernel.errors import Invalid
from modelworks.kernel.resource import Ref, Resource
from modelworks.objectstore.uri import ObjectUri
from modelworks.products.registry.decide import decide
from modelworks.products.registry.observe import ModelObserved
from modelworks.products.registry.reference import Reference, parse_reference
from modelworks.products.registry.source import Source
from modelworks.products.registry.spec import ModelSpec

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("digits", Reference("digits")),
        ("digits:12", Reference("digits", version=12)),
        ("digits@prod", Reference("digits", alias="prod")),
    ],
)
def test_references_are_read_and_written_alike(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected
    assert str(expected) == text


@pytest.mark.parametrize(
    "text",
    ["", ":1", "digits:", "digits:0", "digits:-1", "digits:²", "digits:1:2", "digits@", "digits@1", "A:1", "x" * 64],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_reference(text)


def test_an_alias_never_looks_like_a_version() -> None:
    for alias in ("1", "1a", "A", "a_b", "-a", ""):
        with pytest.raises(Invalid):
            ModelSpec.parse({"aliases": {alias: 1}})


def test_a_model_says_what_there_is_of_it() -> None:
    spec = {"aliases": {"prod": 1}}
    model = Resource("abcdef123456", Ref("default", "Model", "digits"), 1, spec, NOW, NOW)
    assert decide(model, ModelObserved(2, 2, 2048), NOW).status["message"] == "2 versions, 2Ki, prod → 1"
    assert decide(model, ModelObserved(0, None, 0), NOW).status["message"] == "no version yet, prod → 1"


def test_the_digest_is_of_names_sizes_and_contents() -> None:
    def digest(*files: tuple[str, int, str]) -> str:
        listed = tuple({"path": p, "size": s, "digest": d} for p, s, d in files)
        return Source(ObjectUri("b", "k/"), listed).digest

    same = digest(("a", 1, "sha256:x"))
    assert same == digest(("a", 1, "sha256:x"))
    assert len({same, digest(("b", 1, "sha256:x")), digest(("a", 2, "sha256:x")), digest(("a", 1, "sha256:y"))}) == 4
