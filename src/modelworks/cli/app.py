"""`mw`: the entry point. A command's module is imported when the command is run, so that `mw --help` is quick."""

from __future__ import annotations

import contextlib
import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from modelworks.cli.problems import ExitCode, tell, tell_error
from modelworks.kernel.errors import ModelworksError

# What typer itself raises for wrong arguments; a public base class has no public name in every typer.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

# name: (module, what it holds, help). Groups are typer applications, single commands functions.
COMMANDS: dict[str, tuple[str, str, str]] = {
    "up": ("platform", "up", "Start the platform on this machine."),
    "down": ("platform", "down", "Stop the platform and every workload."),
    "status": ("platform", "status", "Show the platform's processes and addresses."),
    "quickstart": ("quickstart.app", "quickstart", "Train, register, deploy and call a model, start to end."),
    "apply": ("apply", "apply", "Create or change what files declare."),
    "diff": ("apply", "diff", "Show what apply would change."),
    "get": ("get", "get", "Show resources of any kind."),
    "delete": ("apply", "delete", "Delete a resource, or what files declare."),
    "job": ("job", "app", "Training jobs: submit, follow, cancel."),
    "sweep": ("sweep", "app", "Sweeps: search for the best hyperparameters of a job."),
    "service": ("service", "app", "Services: deploy, call, start, stop."),
    "eas": ("eas", "app", "Services, by the verbs of the cloud's tools."),
    "model": ("model", "app", "Models: register versions, name them by aliases."),
    "bucket": ("bucket", "app", "Buckets: upload, download, list objects."),
    "volume": ("volume", "app", "Volumes: persistent directories for jobs and services."),
    "environment": ("environment", "app", "Environments: sets of packages for jobs and services."),
    "instance-type": ("environment", "instance_types", "Instance types: shapes with a price."),
    "node": ("node", "app", "Nodes: room, cordon, drain."),
    "quota": ("quota", "app", "Quotas: the most that a workspace may hold and spend."),
    "tracking": ("tracking", "app", "The MLflow server: its address and its pages."),
    "cost": ("cost", "cost", "Show what everything costs."),
    "logs": ("logs", "logs", "Print the log of a job or a service."),
    "events": ("logs", "events", "Show what happened."),
    "login": ("login", "login", "Remember a platform and an API key."),
    "logout": ("login", "logout", "Forget the platform of `mw login`."),
    "key": ("key", "app", "API keys: create, list, revoke."),
}
_CANNOT_WRITE = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)
_OWN_OPTIONS = ("up", "down", "status")  # cli/platform.py declares its options itself: it needs no platform to talk to

_HELP = """A self-hosted machine-learning platform: train, register, serve, and see what it costs.

\b
Exit codes: 0 ok; 1 the platform could not do it; 2 wrong input; 3 not found or not running; 4 refused;
5 no platform reached; 6 the job or service failed; 130 Ctrl-C."""


class LazyGroup(TyperGroup):
    """Knows its commands by name and help alone; the one that is run is imported then."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0] if args else ""
        if name in COMMANDS:
            self.commands[name] = load(name)
        return super().resolve_command(ctx, args)


def load(name: str) -> Any:
    """The command as typer runs it."""
    module, attribute, _ = COMMANDS[name]
    found = getattr(importlib.import_module(f"modelworks.cli.{module}"), attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found)
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    if name in _OWN_OPTIONS:
        single.command(name)(found)
    else:
        command_class = importlib.import_module("modelworks.cli.command").Command
        single.command(name, cls=command_class)(found)
    return typer.main.get_command(single)


def build() -> typer.Typer:
    """`mw` with every command as a name and its help."""
    app = typer.Typer(
        name="mw", cls=LazyGroup, help=_HELP, no_args_is_help=True, rich_markup_mode=None, add_completion=True
    )
    for name, (_, _, help) in COMMANDS.items():
        app.command(name, help=help)(_placeholder)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command line: the exit code. Errors are told, never raised."""
    try:
        result = typer.main.get_command(build()).main(list(arguments), prog_name="mw", standalone_mode=False)
        sys.stdout.flush()
        return result if isinstance(result, int) else ExitCode.OK
    except ModelworksError as error:
        return tell_error(error)
    except typer.Abort:
        tell("aborted")
        return ExitCode.FAILED
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        # Whoever read us has gone. What is still buffered goes nowhere, so that the interpreter's last flush is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.OK
    except _UsageError as error:
        return _tell_usage(error)
    except OSError as error:
        if error.filename is not None or error.errno not in _CANNOT_WRITE:
            raise
        # Stdout is a file on a full disk. What is still buffered has nowhere to go either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        tell(f"the output cannot be written: {error.strerror}")
        return ExitCode.FAILED


def _tell_usage(error: Any) -> int:
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if not message or type(error).__name__ == "NoArgsIsHelpError":
        return ExitCode.USAGE  # typer has shown the help
    path = context.command_path if context is not None else "mw"
    tell(message.rstrip(".").replace("Value error, ", ""), remedy=f"{path} --help")
    return ExitCode.USAGE


def _placeholder() -> None:
    """Stands for a command until it is run."""


def main() -> None:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that is not UTF-8 is no reason to fail
    with contextlib.suppress(BrokenPipeError):  # the reader of our last words has gone
        sys.exit(run(sys.argv[1:]))
