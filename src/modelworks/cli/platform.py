"""``mw up``, ``mw down``, ``mw status``: the supervisor's commands, which take this process's place."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

_Home = Annotated[Path | None, typer.Option("--home", help="MW_HOME: where the platform keeps its state.")]
_Json = Annotated[bool, typer.Option("--json", help="The last line is one JSON object.")]
_Grace = Annotated[float, typer.Option("--grace", min=0, help="Seconds that workloads get to end by themselves.")]


def up(
    home: _Home = None,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Return when everything answers.")] = False,
    host: Annotated[str | None, typer.Option(help="Address of the public doors [127.0.0.1].")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the gateway [8700]; 0 picks a free one.")
    ] = None,
    s3_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the object store [8733]; 0 picks a free one.")
    ] = None,
    grace: _Grace = 30.0,
    as_json: _Json = False,
) -> None:
    """Start the platform on this machine. In the foreground, Ctrl-C stops it and its workloads."""
    flags = {"--home": home, "--host": host, "--port": port, "--s3-port": s3_port, "--grace": grace}
    _become("up", flags, {"--detach": detach, "--json": as_json})


def down(home: _Home = None, grace: _Grace = 30.0, as_json: _Json = False) -> None:
    """Stop the platform and every workload. Its data stays."""
    _become("down", {"--home": home, "--grace": grace}, {"--json": as_json})


def status(home: _Home = None, as_json: _Json = False) -> None:
    """Show the platform's processes. Exit code 0: up, 3: not running, 4: degraded."""
    _become("status", {"--home": home}, {"--json": as_json})


def _become(verb: str, values: Mapping[str, object], switches: dict[str, bool]) -> None:
    arguments = [part for flag, value in values.items() if value is not None for part in (flag, str(value))]
    arguments += [flag for flag, given in switches.items() if given]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-P", "-m", "modelworks.supervisor", verb, *arguments])
