"""What can be written or read is documented, and what the documentation names is there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from tests.documents import DOCS, ROOT, blocks, pages

from modelworks.api import app as api
from modelworks.api import nodes, platform, queue, resources, streams
from modelworks.cli.app import COMMANDS, load
from modelworks.control.kinds import KINDS
from modelworks.kernel import errors
from modelworks.kernel.catalogue import EnvironmentSpec
from modelworks.kernel.resource import Manifest
from modelworks.kernel.run import RunReason
from modelworks.products.serving.record import ServicePhase
from modelworks.products.sweeps.record import SweepPhase
from modelworks.products.training.record import JobPhase
from modelworks.products.training.spec import TrainingJobSpec
from modelworks.settings import Settings

PAGE_OF_KIND = {
    "TrainingJob": "training.md",
    "Sweep": "training-sweeps.md",
    "Service": "serving.md",
    "Model": "registry.md",
    "Bucket": "storage.md",
    "Volume": "storage.md",
    "Environment": "environments.md",
    "InstanceType": "environments.md",
    "Quota": "training-queue.md",
}
ELSEWHERE = (EnvironmentSpec, TrainingJobSpec)  # nested in other kinds, on a page of their own
SOURCE = ROOT / "src" / "modelworks"


@cache
def read(name: str) -> str:
    return (DOCS / name).read_text()


def commands() -> Iterator[str]:
    for name in COMMANDS:
        command = load(name)
        nested = getattr(command, "commands", None)
        yield from (f"{name} {verb}" for verb in nested) if nested else (name,)


def named_commands(text: str) -> set[str]:
    """Commands in backticks (``mw job submit|run`` names two), and those that shell blocks call."""
    spans = re.findall(r"`mw ([^`\n]+)`", text.replace("\\|", "|"))
    for block in blocks(text):
        if block.language in ("sh", ""):
            lines = re.sub(r"#.*", "", block.text)
            spans += re.findall(r"(?:^|[;&|(] ?|\bdo )mw ([^\n;&|)]+)", lines, re.MULTILINE)
    found = set()
    for span in spans:
        name, *rest = span.split()
        if name.startswith("-"):
            continue
        verbs = rest[0].split("|") if rest and re.fullmatch("[a-z|-]+", rest[0]) else []
        found |= {name, *(f"{name} {verb}" for verb in verbs)}
    return found


def fields(model: Any, at: str = "") -> Iterator[str]:
    """Dotted names of every field, those of nested specs too, but for what has a page of its own."""
    for name, field in model.model_fields.items():
        yield f"{at}{field.alias or name}"
        for nested in re.findall(r"modelworks\.[\w.]+", str(field.annotation)):
            module, _, class_name = nested.rpartition(".")
            found = getattr(__import__(module, fromlist=[class_name]), class_name, None)
            if isinstance(found, type) and issubclass(found, BaseModel) and found not in ELSEWHERE:
                yield from fields(found, f"{at}{name}.")


def says(text: str, word: str) -> bool:
    return re.search(rf"(?<![A-Za-z0-9_-]){re.escape(word)}(?![A-Za-z0-9_-])", text) is not None


@pytest.mark.parametrize("command", sorted(commands()))
def test_every_command_is_in_the_reference(command: str) -> None:
    assert command in named_commands(read("cli.md"))


def test_every_command_that_a_page_names_is_there() -> None:
    known = {*commands(), *COMMANDS}
    groups = {name for name in COMMANDS if hasattr(load(name), "commands")}
    wrong = []
    for page in pages():
        for name in named_commands(page.read_text()):
            first, _, verb = name.partition(" ")
            if first not in known or (first in groups and verb and name not in known):
                wrong.append(f"{page.relative_to(ROOT)}: mw {name}")
    assert wrong == []


def test_every_kind_has_a_page() -> None:
    assert set(KINDS) == set(PAGE_OF_KIND)


@pytest.mark.parametrize("kind", sorted(PAGE_OF_KIND))
def test_every_field_of_a_kind_is_on_its_page(kind: str) -> None:
    text = read(PAGE_OF_KIND[kind])
    missing = [path for path in fields(KINDS[kind].spec) if not says(text, path.rpartition(".")[2])]
    assert missing == []


@pytest.mark.parametrize("page", [p for p in pages() if p.parent == DOCS], ids=lambda path: path.name)
def test_manifests_are_valid(page: Path) -> None:
    """Each as it stands; fields of Service's reference that exclude each other are cut to one processor."""
    for block in blocks(page.read_text()):
        if block.language != "yaml" or "kind:" not in block.text:
            continue
        for document in yaml.safe_load_all(block.text):
            manifest = Manifest.parse(document)
            spec = dict(manifest.spec)
            if manifest.kind == "Service" and len({"entry", "command"} & set(spec)) == 2:
                spec = {key: value for key, value in spec.items() if key not in ("entry", "command")}
            KINDS[manifest.kind].spec.parse(spec, at=f"{page.name}:{block.line}")


def test_a_complete_manifest_holds_every_field() -> None:
    for kind, page in PAGE_OF_KIND.items():
        text = "\n".join(block.text for block in blocks(read(page)) if block.language == "yaml")
        assert [name for name in KINDS[kind].spec.model_fields if not says(text, name)] == [], kind


def variables() -> set[str]:
    found: set[str] = set()
    for path in SOURCE.rglob("*.py"):
        found |= set(re.findall(r"\bMW_[A-Z0-9_]*[A-Z0-9]\b", path.read_text()))
    return found - {"MW_INPUT", "MW_OUTPUT"}  # beginnings of names


def test_every_variable_is_documented() -> None:
    text = read("configuration.md")
    assert sorted(name for name in variables() if not says(text, name)) == []


def test_no_page_names_a_variable_that_is_not_there() -> None:
    known = variables() | {"MW_INPUT_", "MW_OUTPUT_"}
    wrong = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in pages()
        for name in set(re.findall(r"\bMW_[A-Z0-9_]+", page.read_text()))
        if name not in known
    ]
    assert wrong == []


def test_every_key_of_the_configuration_is_documented_with_its_default() -> None:
    text = next(block.text for block in blocks(read("configuration.md")) if block.language == "yaml")
    written = yaml.safe_load(text)
    assert set(written) == set(Settings.model_fields) - {"home"}
    assert Settings.model_validate(written) == Settings()
    missing = [
        path for path in fields(Settings) if path != "home" and not says(read("configuration.md"), path.split(".")[-1])
    ]
    assert missing == []


def codes() -> set[str]:
    """Of the error tree, and of the problems that gateway, model server and API make without it."""
    found = {cls.code for cls in errors._tree(errors.ModelworksError)}
    for folder in ("gateway", "server"):
        for path in (SOURCE / folder).rglob("*.py"):
            found |= set(re.findall(r'Problem\(\s*\d{3},\s*"([a-z-]+)"', path.read_text()))
    return found | set(re.findall(r'\("([a-z-]+)", "[A-Z]', (SOURCE / "api" / "problems.py").read_text()))


def test_every_error_code_is_documented() -> None:
    assert len(codes()) > 20
    assert sorted(code for code in codes() if f"`{code}`" not in read("api.md")) == []


def test_every_path_of_the_api_is_documented() -> None:
    parts = (resources.router, streams.router, platform.router, nodes.router, queue.router, platform.open_router)
    routers = (*parts, *(product.router() for product in api._PRODUCTS))
    calls = [f"{method} {route.path}" for router in routers for route in router.routes for method in route.methods]  # type: ignore[attr-defined]
    assert len(calls) > 25
    assert sorted(call for call in calls if f"`{call}`" not in read("api.md")) == []


def test_every_phase_and_reason_is_explained() -> None:
    assert [phase for phase in JobPhase if f"`{phase}`" not in read("training.md")] == []
    assert [phase for phase in SweepPhase if f"`{phase}`" not in read("training-sweeps.md")] == []
    assert [phase for phase in ServicePhase if f"`{phase}`" not in read("serving.md")] == []
    assert [reason for reason in RunReason if reason and f"`{reason}`" not in read("training.md")] == []


def anchors(text: str) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", text, flags=re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", pages(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_relative_link_is_broken(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and anchor not in anchors(path.read_text())):
            broken.append(target)
    assert broken == []


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, todo = set[Path](), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in seen or page.suffix != ".md" or not page.exists():
            continue
        seen.add(page)
        todo += [(page.parent / name).resolve() for name in re.findall(r"\]\(([^)#\s:]+)", page.read_text())]
    assert [page for page in pages() if page not in seen] == []
