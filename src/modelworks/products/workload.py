"""What jobs and services have in common: commands, variables, URIs and mounts as users write them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from modelworks.kernel.resource import Name
from modelworks.kernel.spec import Spec

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_REFERENCE = re.compile(r"\$(\$\([A-Za-z_][A-Za-z0-9_]*\))|\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
# Directories of the system and of the sandbox itself: a mount there would hide what a run needs.
_RESERVED = ("/bin", "/boot", "/dev", "/etc", "/lib", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr")


def _check_env_name(name: str) -> str:
    if not _ENV_NAME.fullmatch(name):
        raise ValueError(f"not a variable name: {name!r}; use letters, digits and '_', not beginning with a digit")
    return name


def _as_text(value: object) -> object:
    """YAML reads ``EPOCHS: 3`` as a number; a variable is text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else value


def _check_path(path: str) -> str:
    if not path.startswith("/") or posixpath.normpath(path) != path.rstrip("/"):
        raise ValueError(f"not an absolute path: {path!r}; write it as /mnt/scratch, without '..' or '//'")
    path = path.rstrip("/")
    if any(path == place or path.startswith(f"{place}/") for place in _RESERVED):
        raise ValueError(f"{path} belongs to the system; mount below /mnt, /data or /ml")
    return path


def _check_command(command: object) -> object:
    """Text must say something; a list is arguments and its first names a program."""
    empty = not command.strip() if isinstance(command, str) else command in ([], ())
    if empty or (isinstance(command, list | tuple) and command[0] == ""):
        raise ValueError("the command is empty; write it as `python train.py` or as a list of arguments")
    return command


EnvName = Annotated[str, AfterValidator(_check_env_name)]
EnvValue = Annotated[str, BeforeValidator(_as_text, json_schema_input_type=str | float | bool), Field(max_length=32768)]
MountPath = Annotated[str, AfterValidator(_check_path)]
Argument = Annotated[str, Field(max_length=131071)]  # the kernel's limit for one argument is 128 KiB
Command = Annotated[
    Argument | tuple[Argument, ...],
    BeforeValidator(_check_command, json_schema_input_type=str | tuple[str, ...]),
]


class VolumeReference(Spec):
    """A named volume in a run, at ``mount_path``."""

    name: Name
    mount_path: MountPath
    read_only: bool = False


def arguments(command: str | tuple[str, ...]) -> tuple[str, ...]:
    """Text is for the shell; a list is taken as it is."""
    return ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` of known variables; ``$$(NAME)`` is a literal ``$(NAME)``, an unknown name stays as it is."""

    def value(match: re.Match[str]) -> str:
        if match[1]:
            return match[1]
        return variables.get(match[2], match[0])

    return _REFERENCE.sub(value, text)


def expand_variables(own: Mapping[str, str], known: Mapping[str, str]) -> dict[str, str]:
    """A user's variables, each of which may use the platform's and those written before it."""
    variables, expanded = dict(known), {}
    for name, text in own.items():
        expanded[name] = variables[name] = expand(text, variables)
    return expanded


def duplicates(paths: list[str]) -> set[str]:
    """The paths that occur more than once."""
    return {path for path in paths if paths.count(path) > 1}
