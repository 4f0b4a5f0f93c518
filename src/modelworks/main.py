"""The composition root: ``python -m modelworks.main PROCESS``: controller, agent, relay, gateway, courier, bridge,
tracking, migrate, run-local.

One entry point, but each process loads its own part only: the gateway never pays for the controller's imports.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from modelworks.home import Home, default_home
from modelworks.kernel.errors import ModelworksError

# Each process's module and how it logs: structlog is too large for those that are to stay small.
_PROCESSES = {
    "controller": ("modelworks.control.process", "modelworks.structured"),
    "agent": ("modelworks.agent.process", "modelworks.logging"),
    "relay": ("modelworks.agent.relay", "modelworks.logging"),
    "gateway": ("modelworks.gateway.process", "modelworks.logging"),
    "courier": ("modelworks.courier.process", "modelworks.logging"),
    "bridge": ("modelworks.runtime.ray.bridge", "modelworks.logging"),
    "tracking": ("modelworks.tracking.process", "modelworks.logging"),
    "migrate": ("modelworks.supervisor.migrate", "modelworks.structured"),
}

# What `run-local` answers when the job's command never ran, as `docker run` does; other codes are the command's own.
_NOT_RUN = 125


def main(arguments: Sequence[str]) -> int:
    """Run one process to its end. Returns the exit code; what a user can mend is told in plain lines on stderr."""
    options = _parser().parse_args(arguments)
    try:
        if options.process == "run-local":
            run_local = cast("Callable[[Path, Path], int]", _function("modelworks.run_local", "run"))
            return run_local(options.manifest, options.directory)
        home = Home(Path(options.home).absolute() if options.home else default_home())
        module, logs = _PROCESSES[options.process]
        configure = cast("Callable[[str], None]", _function(logs, "configure"))
        configure(options.process)
        run = cast("Callable[[Home], None]", _function(module, "run"))
        run(home)
    except ModelworksError as error:
        remedy = f"try: {error.remedy}\n" if error.remedy else ""
        sys.stderr.write(f"error: {error}\n{remedy}")
        return _NOT_RUN if options.process == "run-local" else 1
    return 0


def _function(module: str, name: str) -> object:
    return getattr(importlib.import_module(module), name)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modelworks.main", description="One process of the platform.")
    verbs = parser.add_subparsers(dest="process", required=True)
    for name in _PROCESSES:
        verbs.add_parser(name).add_argument("--home", help="MW_HOME")
    local = verbs.add_parser("run-local", help="run a job's manifest on this machine, without a platform")
    local.add_argument("manifest", type=Path, help="YAML or JSON")
    local.add_argument("--directory", type=Path, required=True, help="where its inputs, work and output go")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
