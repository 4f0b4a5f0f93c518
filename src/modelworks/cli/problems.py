"""How an error is told: one line, its fields, a remedy; and the exit code that stands for it."""

from __future__ import annotations

import sys
from enum import IntEnum

from modelworks.kernel.errors import (
    Conflict,
    Forbidden,
    Invalid,
    LimitExceeded,
    ModelworksError,
    NotFound,
    PlatformUnreachable,
    TooLarge,
    Unauthorized,
    WorkloadFailed,
)


class ExitCode(IntEnum):
    """What a command's exit code says. Documented in docs/cli.md and `mw --help`."""

    OK = 0
    FAILED = 1  # the platform answered, and could not do it
    USAGE = 2  # wrong arguments or input
    NOT_FOUND = 3  # there is no such thing, or it does not run
    REFUSED = 4  # its state, a limit or the key forbids it
    UNREACHABLE = 5
    WORKLOAD = 6  # the job or service itself failed
    INTERRUPTED = 130


_CODES: tuple[tuple[type[ModelworksError], ExitCode], ...] = (
    (PlatformUnreachable, ExitCode.UNREACHABLE),
    (WorkloadFailed, ExitCode.WORKLOAD),
    (Invalid, ExitCode.USAGE),
    (TooLarge, ExitCode.USAGE),
    (NotFound, ExitCode.NOT_FOUND),
    (Conflict, ExitCode.REFUSED),
    (Forbidden, ExitCode.REFUSED),
    (Unauthorized, ExitCode.REFUSED),
    (LimitExceeded, ExitCode.REFUSED),
)
_LOGIN = "mw login URL --key KEY"


def exit_code(error: ModelworksError) -> ExitCode:
    return next((code for cls, code in _CODES if isinstance(error, cls)), ExitCode.FAILED)


def tell(detail: str, *, fields: tuple[tuple[str, str], ...] = (), remedy: str | None = None) -> None:
    """``error: …`` on stderr, a line for each field, and ``try: …``."""
    first, *rest = detail.rstrip().splitlines() or ["unknown"]
    lines = [f"error: {first}", *(line if line.startswith(" ") else f"  {line}" for line in rest)]
    lines += [f"  {path}: {message}" if path else f"  {message}" for path, message in fields]
    if remedy:
        lines.append(f"try: {remedy}")
    sys.stderr.write("\n".join(lines) + "\n")


def tell_error(error: ModelworksError) -> ExitCode:
    remedy = error.remedy or (_LOGIN if isinstance(error, Unauthorized) else None)
    tell(error.detail, fields=tuple((field.path, field.message) for field in error.fields), remedy=remedy)
    return exit_code(error)
