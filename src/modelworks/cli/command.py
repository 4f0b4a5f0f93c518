"""What every command has in common: ``--json``, ``--workspace``, ``--region``, and the platform it talks to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand

from modelworks.cli.output import Output
from modelworks.kernel.resource import DEFAULT_WORKSPACE
from modelworks.sdk import context
from modelworks.sdk.client import Client


@dataclass(frozen=True)
class Invocation:
    """One call of ``mw``: how to print, and in which workspace."""

    out: Output
    workspace: str

    def connect(self) -> Client:
        return context.connect(workspace=self.workspace)


def _common(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    workspace: Annotated[
        str, typer.Option("--workspace", "-w", help="Work in this workspace.", envvar="MW_WORKSPACE")
    ] = DEFAULT_WORKSPACE,
    region: Annotated[str | None, typer.Option(help="Accepted; there is one region.", hidden=True)] = None,
) -> None:
    """The common options, declared as typer declares any."""


def _options() -> tuple[Any, ...]:
    app = typer.Typer(add_completion=False)
    app.command()(_common)
    return tuple(typer.main.get_command(app).params)


_COMMON = _options()


class Command(TyperCommand):
    """A command with the common options. Its function reads them by :func:`invocation`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params = [*self.params, *_COMMON]

    def invoke(self, ctx: Any) -> Any:
        as_json, workspace, _ = (ctx.params.pop(option.name, None) for option in _COMMON)
        ctx.obj = Invocation(Output(bool(as_json)), workspace or DEFAULT_WORKSPACE)
        return super().invoke(ctx)


def invocation(ctx: typer.Context) -> Invocation:
    found = ctx.obj
    assert isinstance(found, Invocation)
    return found


def noun(name: str, help: str) -> typer.Typer:
    """A group of commands about one noun."""
    app = typer.Typer(name=name, help=help, no_args_is_help=True, rich_markup_mode=None, add_completion=False)
    app.callback(help=help)(_nothing)  # without one, a group of a single verb would be that verb
    return app


def _nothing() -> None:
    """A group does nothing by itself."""


F = TypeVar("F", bound=Callable[..., None])


def verb(app: typer.Typer, name: str) -> Callable[[F], F]:
    """Add a command with the common options to a group."""
    return app.command(name, cls=Command)
