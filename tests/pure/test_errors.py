"""The error tree: each class has its own code, and a problem body gives back the error it was made from."""

from __future__ import annotations

import pytest

from modelworks.kernel import errors
from modelworks.kernel.errors import FieldError, Invalid, ModelworksError, from_problem

_CLASSES = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, ModelworksError)]


def test_codes_are_unique_and_drawn_in_the_tree() -> None:
    assert len({c.code for c in _CLASSES}) == len(_CLASSES)
    assert errors.__doc__ is not None
    for cls in _CLASSES:
        assert cls.__name__ in errors.__doc__
        assert cls.code in errors.__doc__
        assert str(cls.status) in errors.__doc__


@pytest.mark.parametrize("cls", _CLASSES)
def test_an_error_survives_its_problem_body(cls: type[ModelworksError]) -> None:
    error = cls("what", remedy="do", fields=(FieldError("spec.x", "wrong"),), retry_after=2.0)
    again = from_problem(error.problem(), cls.status)
    assert type(again) is cls
    assert (again.detail, again.remedy, again.fields, again.retry_after) == ("what", "do", error.fields, 2.0)


def test_a_body_that_is_not_ours_keeps_the_meaning_of_its_status() -> None:
    assert isinstance(from_problem({"detail": "no"}, 404), errors.NotFound)
    assert from_problem({}, 599).detail == "HTTP 599"


def test_fields_are_told_with_their_paths() -> None:
    assert str(Invalid("1 field is wrong", fields=(FieldError("spec.x", "unknown field"),))) == (
        "1 field is wrong\n  spec.x: unknown field"
    )
