"""Manifests from files: every document knows where it was written, so that an error names file, document and field."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from modelworks.cli.imports import imported
from modelworks.kernel.errors import FieldError, Invalid, ModelworksError
from modelworks.sdk import code, services
from modelworks.sdk.client import Client, Document
from modelworks.sdk.model import upload_model

_SUFFIXES = (".yaml", ".yml", ".json")
_WITH_CODE = ("TrainingJob", "Service")
_REMOTE = ("s3://", "oss://")
# What a path begins with, where the name of a registered model could stand too.
_PATHS = ("./", "../", "/", "~", "file://")
_MERGE = "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """YAML whose mappings hold every key once: of two the first would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    problem = f"the key {key.value!r} is there twice"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return dict(super().construct_mapping(node, deep))


@dataclass(frozen=True)
class Source:
    """A document, the file it was in (``-`` is standard input), its number there (from 1), and how many there are.

    ``notes`` are on what had no effect in a document of another system.
    """

    document: Document
    file: str
    number: int
    of: int
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        return self.file if self.of == 1 else f"{self.file} document {self.number}"

    @property
    def folder(self) -> Path:
        return Path.cwd() if self.file == "-" else Path(self.file).resolve().parent


def load(paths: Sequence[Path], *, name: str | None = None) -> list[Source]:
    """The documents of files, folders (their YAML and JSON files) and ``-``. Raises Invalid.

    ``name`` is of the service whose fields a service JSON holds without saying which.
    """
    found = [source for path in paths for source in _load(path, name)]
    if not found:
        where = ", ".join("standard input" if str(path) == "-" else str(path) for path in paths)
        raise Invalid(f"there are no manifests in {where}")
    return found


def prepare(client: Client, sources: Sequence[Source], *, send: bool = True) -> list[Document]:
    """The manifests as the platform wants them: in this workspace unless they name one, their code packed.

    ``send`` False only computes the code's address, for a dry run.
    """
    return [_prepare(client, source, send) for source in sources]


def with_code(source: Source, folder: Path) -> Source:
    """The document with this folder of code, where it is a job that names none."""
    spec = source.document.get("spec")
    if source.document.get("kind") != "TrainingJob" or not isinstance(spec, dict) or spec.get("code") is not None:
        return source
    return replace(source, document={**source.document, "spec": {**spec, "code": str(folder.absolute())}})


def located(error: ModelworksError, sources: Sequence[Source]) -> ModelworksError:
    """The platform's error about posted manifests, told in terms of the files."""
    if not error.fields:
        return error
    fields = tuple(_locate(field, sources) for field in error.fields)
    return type(error)(error.detail, remedy=error.remedy, fields=fields, retry_after=error.retry_after)


def _load(path: Path, name: str | None) -> Iterator[Source]:
    if str(path) == "-":
        yield from _parse(_read(path), "-", name)
    elif path.is_dir():
        for file in sorted(p for p in path.iterdir() if p.suffix in _SUFFIXES and p.is_file()):
            yield from _parse(_read(file), str(file), name)
    else:
        yield from _parse(_read(path), str(path), name)


def _read(path: Path) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise Invalid(f"there is no file {path}") from None
    except UnicodeDecodeError as error:
        raise Invalid(f"{path} is not UTF-8 text: byte {error.start + 1} is {error.object[error.start]:#04x}") from None
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror}") from None


def _parse(text: str, file: str, name: str | None) -> Iterator[Source]:
    try:
        if file.endswith(".json"):
            data = json.loads(text)
            documents = data if isinstance(data, list) else [data]
        else:
            documents = [document for document in yaml.load_all(text, _Loader) if document is not None]
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f"{file}:{mark.line + 1}:{mark.column + 1}" if mark else file
        if "'\\t'" in str(error.problem):
            raise Invalid(f"{where}: not valid YAML: a tab", remedy="indent with spaces") from None
        raise Invalid(f"{where}: not valid YAML: {error.problem}") from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        raise Invalid(f"{file}: not valid YAML: {str(error).splitlines()[0]}") from None
    except json.JSONDecodeError as error:
        raise Invalid(f"{file}:{error.lineno}:{error.colno}: not valid JSON: {error.msg}") from None
    for number, document in enumerate(documents, start=1):
        source = Source(document, file, number, len(documents))
        if not isinstance(document, dict):
            raise Invalid(f"{source.place}: a manifest is a mapping (kind, metadata, spec), not {_noun(document)}")
        made, notes = imported(document, source.place, name)
        if made is None:
            sys.stderr.writelines(f"note: {note}\n" for note in notes)
            continue
        document, source = made, Source(made, file, number, len(documents), notes)
        if not isinstance(document.get("kind"), str):
            kinds = "such as TrainingJob or Service"
            raise Invalid(f"{source.place}: a manifest has a kind", fields=(FieldError("kind", f"is needed, {kinds}"),))
        yield source


def _noun(value: Any) -> str:
    return {"list": "a list", "str": "text", "bool": "true or false"}.get(type(value).__name__, "a number")


def _prepare(client: Client, source: Source, send: bool) -> Document:
    document: Document = _plain(dict(source.document))
    metadata = document.get("metadata")
    if isinstance(metadata, dict):
        document["metadata"] = {"workspace": client.workspace, **metadata}
    spec = document.get("spec")
    if document.get("kind") == "Sweep" and isinstance(spec, dict) and isinstance(spec.get("job"), dict):
        document["spec"] = {**spec, "job": _with_uploaded(client, source, spec["job"], send, "spec.job")}
    if document.get("kind") in _WITH_CODE and isinstance(spec, dict):
        document["spec"] = spec = _with_uploaded(client, source, spec, send)
        if document["kind"] == services.KIND:
            document["spec"] = _with_models(client, source, spec, send)
    return document


def _with_uploaded(
    client: Client, source: Source, spec: dict[str, Any], send: bool, at: str = "spec"
) -> dict[str, Any]:
    """The spec with the address of its code, where that is a folder beside the manifest."""
    folder = spec.get("code")
    if not isinstance(folder, str) or folder.startswith(_REMOTE):
        return spec
    try:
        return {**spec, "code": code.upload(client, source.folder / Path(folder).expanduser(), send=send)}
    except Invalid as error:
        fields = tuple(FieldError(f"{at}{field.path.removeprefix('spec')}", field.message) for field in error.fields)
        raise located(Invalid(error.detail, remedy=error.remedy, fields=fields), [source]) from None


def _with_models(client: Client, source: Source, spec: dict[str, Any], send: bool) -> dict[str, Any]:
    """Model files that lie beside the manifest are put into the workspace's bucket, named by their content."""
    found = dict(spec)
    for name in ("model", "base_model"):
        written = found.get(name)
        if not isinstance(written, str) or not _is_path(written, source.folder):
            continue
        path = source.folder / Path(written.removeprefix("file://")).expanduser()
        if not path.exists():
            fields = (FieldError(f"{source.place}: spec.{name}", f"{path} does not exist"),)
            raise Invalid(f"there is no model at {path}", fields=fields)
        found[name] = upload_model(client, path, send=send)
    return found


def _is_path(written: str, folder: Path) -> bool:
    """Also ``models/one`` where that is there: no registered model is called so, but a configuration may replace it."""
    if written.startswith(_PATHS):
        return True
    return "/" in written and not written.startswith(_REMOTE) and (folder / written).exists()


def _plain(value: Any) -> Any:
    """YAML knows dates and JSON does not: they are meant as text."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _locate(field: FieldError, sources: Sequence[Source]) -> FieldError:
    parts = field.path.split(".")
    index, rest = 0, field.path
    if len(parts) > 1 and parts[0] == "manifests" and parts[1].isdigit():
        index, rest = int(parts[1]), ".".join(parts[2:])
    elif len(sources) != 1:
        return field
    if index >= len(sources):
        return field
    return FieldError(f"{sources[index].place}: {rest}" if rest else sources[index].place, field.message)


def find_one(sources: Sequence[Source], kind: str) -> Source:
    """The only document of a kind. Raises Invalid when there is none, or several."""
    found = [source for source in sources if source.document.get("kind") == kind]
    if len(found) == 1:
        return found[0]
    files = ", ".join(sorted({source.file for source in sources}))
    if not found:
        kinds = sorted({source.document["kind"] for source in sources})
        near = get_close_matches(kind, kinds, n=1)
        remedy = f"write kind: {kind}" if near else f"mw apply -f {files}"
        raise Invalid(f"{files} holds no {kind}, but {', '.join(kinds)}", remedy=remedy)
    raise Invalid(f"{files} holds {len(found)} documents of kind {kind}, one is wanted", remedy="mw apply -f")


def find_any(sources: Sequence[Source], kind: str) -> list[Source]:
    """The documents of a kind, at least one. Raises Invalid."""
    found = [source for source in sources if source.document.get("kind") == kind]
    return found or [find_one(sources, kind)]
