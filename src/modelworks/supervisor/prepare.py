"""``python -m modelworks.supervisor.prepare``: everything heavy before a start, in a process that then goes away.

Reads the settings, makes the engines ready to be started (cluster, keys, certificates), and tells the supervisor in
JSON lines what to run; see :mod:`modelworks.supervisor.preparation`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelworks.home import Home
from modelworks.kernel.errors import ModelworksError, SetupFailed

# What tells that the extra is there: one module of each part of the platform.
_SERVER_MODULES = (
    "alembic",
    "boto3",
    "cryptography",
    "fastapi",
    "httptools",
    "psycopg",
    "sqlalchemy",
    "uvicorn",
    "uvloop",
)


def main(arguments: Sequence[str]) -> int:
    options = parser().parse_args(arguments)
    home = Home(Path(options.home))
    try:
        _check_extra()
        _work(home, options)
    except ModelworksError as error:
        _tell({"failed": {"detail": str(error), "remedy": error.remedy}})
        return 1
    return 0


def _check_extra() -> None:
    missing = [name for name in _SERVER_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupFailed(
            f"the platform's packages are not installed ({', '.join(missing)})",
            remedy="pip install 'modelworks[server]'",
        )


def _work(home: Home, options: argparse.Namespace) -> None:
    # Imported once it is known that they are there.
    units = importlib.import_module("modelworks.supervisor.units")
    asked = units.Asked(**{name: value for name, value in vars(options).items() if name != "home"})
    settings, addresses = units.begin(home, asked, _tell)
    engines = importlib.import_module("modelworks.supervisor.engines")
    engines.prepare(home, settings, addresses, asked, _tell)


def _tell(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", required=True)
    parser.add_argument("--running", type=lambda text: frozenset(text.split(",")), default=frozenset())
    for known in ("", "known-"):
        parser.add_argument(f"--{known}host")
        parser.add_argument(f"--{known}port", type=int)
        parser.add_argument(f"--{known}s3-port", type=int)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
