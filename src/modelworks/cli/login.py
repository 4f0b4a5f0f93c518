"""`mw login`, `mw logout`: which platform this user talks to."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from modelworks.cli.command import invocation
from modelworks.kernel.errors import Invalid
from modelworks.sdk import context
from modelworks.sdk.client import Client


def login(
    ctx: typer.Context,
    url: Annotated[str, typer.Argument(help="The platform's address, such as http://127.0.0.1:8700.")],
    key: Annotated[
        str | None,
        typer.Option("--key", help="An API key; without it, it is asked for or piped in.", envvar="MW_API_KEY"),
    ] = None,
) -> None:
    """Remember a platform and an API key, after trying them."""
    call = invocation(ctx)
    url = context.check_url(url)
    if key is None:
        piped = not sys.stdin.isatty()
        key = sys.stdin.readline().strip() if piped else str(typer.prompt("API key", hide_input=True, err=True))
    if not key:
        raise Invalid("an API key is needed", remedy="--key KEY, MW_API_KEY, or a line of standard input")
    who = Client(url, key, workspace=call.workspace).whoami()
    path = context.save_login(url, key)
    if call.out.as_json:
        call.out.document({"url": url, "whoami": who, "saved": str(path)})
    else:
        call.out.say(f"logged in to {url} as {who.get('name', 'unknown')}; kept in {path}")


def logout(ctx: typer.Context) -> None:
    """Forget the platform of `mw login`."""
    call = invocation(ctx)
    forgotten = context.forget_login()
    if call.out.as_json:
        call.out.document({"forgotten": forgotten})
    else:
        call.out.say("logged out" if forgotten else "there was no login")
