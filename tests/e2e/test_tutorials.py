"""The README and the tutorials, typed as printed: on one real platform, each in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli_platform import Mw, fresh
from tests.documents import DOCS, ROOT
from tests.typed_pages import as_cloned, typed

pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("tutorials")]


@pytest.fixture(scope="module")
def mw() -> Iterator[Mw]:
    with fresh() as one:
        yield one


def test_the_readme(mw: Mw, tmp_path: Path) -> None:
    as_cloned(tmp_path)
    typed(ROOT / "README.md", tmp_path, mw)


def test_the_tutorial(mw: Mw, tmp_path: Path) -> None:
    """After the README's, whose service still runs: two cores must do for both."""
    typed(DOCS / "tutorial.md", tmp_path, mw)


def test_the_tutorial_of_serving(mw: Mw, tmp_path: Path) -> None:
    typed(DOCS / "tutorial-serving.md", tmp_path, mw)


def test_the_api_page(mw: Mw, tmp_path: Path) -> None:
    typed(DOCS / "api.md", tmp_path, mw)
