"""What lies in a model's folder."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from modelworks.engines import gguf
from modelworks.engines.errors import CannotStart

ADAPTER_CONFIG = "adapter_config.json"
_SHOWN = 10


@dataclass(frozen=True)
class Gguf:
    """The files that llama.cpp loads: the model (the first part of a split one), its projector and its adapters."""

    model: Path
    projector: Path | None = None
    adapters: tuple[Path, ...] = ()


def adapter(model: Path) -> dict[str, object] | None:
    """``adapter_config.json`` of a folder that holds a LoRA adapter and no model of its own."""
    file = model / ADAPTER_CONFIG
    if not file.is_file() or (model / "config.json").is_file():
        return None
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise CannotStart(f"{file} cannot be read: {error}") from None
    if not isinstance(found, dict):
        raise CannotStart(f"{file} holds no mapping")
    return found


def needs_base(model: Path, config: dict[str, object]) -> CannotStart:
    named = config.get("base_model_name_or_path")
    said = f", trained on {named}" if named else ""
    return CannotStart(f"{model} holds a LoRA adapter alone{said}: give the service base_model")


def gguf_files(model: Path, base: Path | None) -> Gguf:
    """Raises CannotStart when there is not exactly one model, saying what is there."""
    here = _ggufs(model)
    adapters = tuple(file for file in here if gguf.is_adapter(file))
    projectors = [file for file in here if file.name.startswith("mmproj")]
    models = [file for file in here if file not in adapters and file not in projectors]
    if base is not None and not models:
        if not adapters and (model / ADAPTER_CONFIG).is_file():
            raise CannotStart(
                f"{model} holds a LoRA adapter of safetensors; llama.cpp wants it as GGUF: convert_lora_to_gguf.py"
            )
        beneath = gguf_files(base, None)
        return Gguf(beneath.model, beneath.projector, adapters)
    if not models and adapters:
        raise CannotStart(f"{model} holds a LoRA adapter alone ({adapters[0].name}): give the service base_model")
    if not models:
        raise CannotStart(f"{model} holds no .gguf file; it holds {listing(model)}")
    if len(models) > 1:
        names = ", ".join(file.name for file in models[:_SHOWN])
        raise CannotStart(f"{model} holds several models: {names}; say which: args: [--file, {models[0].name}]")
    return Gguf(models[0], projectors[0] if projectors else None, adapters)


def listing(folder: Path) -> str:
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(names[:_SHOWN]) or "nothing") + more


def _ggufs(folder: Path) -> list[Path]:
    """A split model is its first part."""
    if folder.suffix == ".gguf" and folder.is_file():
        return [folder]
    found = sorted(folder.rglob("*.gguf"))
    return [file for file in found if "-of-" not in file.name or "-00001-of-" in file.name]


def triton_repository(model: Path, service: str, scratch: Path) -> Path:
    """A repository is a folder of models; one model's own folder becomes the only one of a repository."""
    if any((folder / "config.pbtxt").is_file() or _versions(folder) for folder in _folders(model)):
        return model
    if (model / "config.pbtxt").is_file() or _versions(model):
        repository = scratch / "repository"
        repository.mkdir(parents=True, exist_ok=True)
        _link(repository / service, model)
        return repository
    raise CannotStart(f"{model} is no model repository (<model>/config.pbtxt, <model>/1/…); it holds {listing(model)}")


def tensorflow_base(model: Path, scratch: Path) -> Path:
    """TensorFlow Serving wants numbered versions below a model; a single one becomes version 1."""
    if _versions(model):
        return model
    if not any((model / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        raise CannotStart(f"{model} holds neither saved_model.pb nor numbered versions; it holds {listing(model)}")
    base = scratch / "versions"
    base.mkdir(parents=True, exist_ok=True)
    _link(base / "1", model)
    return base


def _folders(model: Path) -> list[Path]:
    return [path for path in model.iterdir() if path.is_dir()] if model.is_dir() else []


def _versions(model: Path) -> list[Path]:
    return [path for path in _folders(model) if path.name.isdigit()]


def _link(link: Path, target: Path) -> None:
    if not link.is_symlink():
        link.symlink_to(target.resolve())
