"""The flags of the cloud's `dlc submit`, with which `mw job submit` takes a job without a file."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from modelworks.cli.command import Command
from modelworks.kernel.errors import FieldError, Invalid
from modelworks.sdk import dlc

_META = "modelworks.flags"
_SHARED: dict[str, tuple[type, str]] = {
    "name": (str, "The job's name."),
    "command": (str, "What each replica runs, for the shell."),
    "workspace_id": (str, "As --workspace."),
    "data_sources": (str, "Buckets or volumes by name, or oss:// URIs, each with :/a/path; separated by commas."),
    "envs": (str, "NAME=VALUE,NAME=VALUE"),
    "tags": (str, "Labels, NAME=VALUE,NAME=VALUE"),
    "priority": (int, "Higher ones go first."),
    "job_max_running_time_minutes": (int, "A time limit; 0 is none."),
    "thirdparty_libs": (str, "Python packages, separated by commas."),
    "job_file": (str, "A file with lines NAME=VALUE of these flags, which count more."),
    "resource_id": (str, ""),
    "success_policy": (str, ""),
    "thirdparty_lib_dir": (str, ""),
}
# Known, and without effect here.
_UNUSED = {
    "code_source": "--code sends a folder",
    "code_branch": "--code sends a folder",
    "code_commit": "--code sends a folder",
    "vpc_id": "",
    "switch_id": "",
    "security_group_id": "",
    "default_route": "",
    "oversold_type": "",
    "driver": "",
    "job_reserved_policy": "",
    "job_reserved_minutes": "",
    "interactive": "--follow shows the log",
}
_WORDS = {
    "image": "Image, or name of an environment.",
    "spec": "Instance type.",
    "cpu": "Cores.",
    "memory": "Such as 8Gi.",
    "gpu": "GPUs.",
    "gpu_type": "GPU model.",
    "shared_memory": "/dev/shm is as large as the memory anyway.",
}


def _known() -> dict[str, tuple[type, str]]:
    found = dict(_SHARED)
    for count, role in dlc.ROLES.items():
        found[count] = (int, f"Replicas of the role {role}.")
        found |= {f"{role}_{part}": (str, f"Of each {role}: {text}") for part, text in _WORDS.items()}
    return found | dict.fromkeys(_UNUSED, (str, ""))


_KNOWN = _known()


def _options() -> tuple[Any, ...]:
    """Each flag as typer makes options: hidden where it says nothing."""

    def flags(**given: Any) -> None:
        """A signature is all there is to it."""

    flags.__annotations__ = {}
    flags.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=None,
                annotation=Annotated[
                    kind | None, typer.Option(f"--{name.replace('_', '-')}", help=text, hidden=not text)
                ],
            )
            for name, (kind, text) in _KNOWN.items()
        ]
    )
    app = typer.Typer(add_completion=False)
    app.command()(flags)
    return tuple(typer.main.get_command(app).params)


class FlagCommand(Command):
    """A command with these flags, as ``--worker-image`` or ``--worker_image``; :func:`given` has them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.context_settings = {**self.context_settings, "token_normalize_func": lambda name: name.replace("_", "-")}
        self._flags = _options()
        self.params = [*self.params, *self._flags]

    def invoke(self, ctx: Any) -> Any:
        ctx.meta[_META] = {option.name: ctx.params.pop(option.name, None) for option in self._flags}
        return super().invoke(ctx)


def given(ctx: typer.Context) -> tuple[dict[str, Any], list[str]]:
    """The flags that were given, those of a job file over them; and notes on what has no effect. Raises Invalid."""
    found = {name: value for name, value in ctx.meta.get(_META, {}).items() if value is not None}
    if "job_file" in found:
        found |= _job_file(Path(found.pop("job_file")))
    notes = [
        f"--{name} has no effect here" + (f": {_UNUSED[name]}" if _UNUSED[name] else "")
        for name in sorted(found)
        if name in _UNUSED
    ]
    return {name: value for name, value in found.items() if name not in _UNUSED}, notes


def _job_file(path: Path) -> Mapping[str, Any]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"--job-file: {path} cannot be read: {error}") from None
    found: dict[str, Any] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        name = name.lstrip("-").replace("-", "_")
        if not equals or name not in _KNOWN or name == "job_file":
            said = f"{name} is no flag of mw job submit" if equals else "write NAME=VALUE"
            raise Invalid(said, fields=(FieldError(f"{path}:{number}", said),))
        if _KNOWN[name][0] is int and not value.lstrip("-").isdigit():
            raise Invalid(f"{name} is a number", fields=(FieldError(f"{path}:{number}", f"{value!r} is no number"),))
        found[name] = int(value) if _KNOWN[name][0] is int else value
    return found
