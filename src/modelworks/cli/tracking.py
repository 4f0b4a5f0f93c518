"""`mw tracking`: where MLflow is."""

from __future__ import annotations

import webbrowser

import typer

from modelworks.cli.command import invocation, noun, verb
from modelworks.tracking.rules import mlflow_workspace
from modelworks.tracking.tokens import PATH

_TIMEOUT = 60.0  # seconds; the server may be starting

app = noun("tracking", "The MLflow server: its address and its pages.")


@verb(app, "url")
def url(ctx: typer.Context) -> None:
    """Print what MLFLOW_TRACKING_URI is to be; MLFLOW_TRACKING_TOKEN is an API key."""
    call = invocation(ctx)
    address = f"{call.connect().url}{PATH}"
    if call.out.as_json:
        call.out.document({"url": address})
    else:
        call.out.say(address)


@verb(app, "ui")
def ui(ctx: typer.Context) -> None:
    """Open MLflow's pages in a browser, which asks for a user (any) and a password (an API key)."""
    call = invocation(ctx)
    client = call.connect()
    address = f"{client.url}{PATH}/"
    # It starts when it is first asked for. A browser would say nothing meanwhile, and not why there is none.
    place = f"{address}api/2.0/mlflow/experiments/search"
    params = {"workspace": mlflow_workspace(client.workspace), "max_results": 1}
    client.http.request("GET", place, params=params, timeout=_TIMEOUT, repeat=False)
    opened = webbrowser.open(address)
    if call.out.as_json:
        call.out.document({"url": address, "opened": opened})
    else:
        call.out.say(f"{address}; the password is an API key, under any user name")
        if not opened:
            call.out.note("there is no browser here: open it in your own")
