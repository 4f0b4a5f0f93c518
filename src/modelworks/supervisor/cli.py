"""The arguments of ``python -m modelworks.supervisor``, and its exit codes.

0 is well, 1 could not, 2 wrong arguments; `status` has 3 for not running and 4 for degraded.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from modelworks.home import Home, default_home
from modelworks.kernel.errors import ModelworksError, SetupFailed
from modelworks.supervisor import commands, status
from modelworks.supervisor.checks import check_access, refusal
from modelworks.supervisor.preparation import PYTHON, SWEEP, Program, Wish
from modelworks.supervisor.report import print_failure

ENTRY = (*PYTHON, "modelworks.supervisor")
PROGRAM = Program(prepare=(*PYTHON, "modelworks.supervisor.prepare"), sweep=SWEEP)
GRACE = 30.0


def main(arguments: Sequence[str], entry: tuple[str, ...] = ENTRY, program: Program = PROGRAM) -> int:
    """``entry`` is how this program is started again, ``program`` what it starts itself. Returns the exit code."""
    options = _parser().parse_args(arguments)
    home = Home(Path(options.home).expanduser().absolute() if options.home else default_home())
    try:
        check_access(home)
        return _run(options, home, entry, program)
    except SetupFailed as error:
        print_failure(error)
    except ModelworksError as error:
        print_failure(SetupFailed(str(error), remedy=error.remedy))
    except BrokenPipeError:
        # Whoever read our output has read enough; what is still to be flushed at the end goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        print_failure(refusal(error, home.root))
    except KeyboardInterrupt:
        return 130
    return 1


def _run(options: argparse.Namespace, home: Home, entry: tuple[str, ...], program: Program) -> int:
    if options.command == "status":
        return status.show(home, options.json)
    if options.command == "down":
        as_json: bool = options.json
        stopped = commands.down(home, program, options.grace, lambda text: _say(text, as_json))
        if as_json:
            print(json.dumps({"home": str(home.root), "stopped": stopped}))
        else:
            _say("Modelworks is down" if stopped else f"Modelworks is not running ({home.root})", False)
        return 0
    wish = Wish(options.host, options.port, options.s3_port)
    if options.command == "run":
        return commands.run(home, wish, program, options.grace, options.report_fd)
    if options.detach:
        return commands.up_detached(home, wish, entry, options.grace, options.json)
    return commands.up(home, wish, program, options.grace, options.json)


def _say(text: str, as_json: bool) -> None:
    print(text, file=sys.stderr if as_json else sys.stdout, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="modelworks.supervisor", description="Start and stop one machine's platform.")
    verbs = parser.add_subparsers(dest="command", required=True)
    for name, help_text in (("up", "start everything"), ("run", "the supervisor of `up --detach`")):
        verb = verbs.add_parser(name, help=help_text)
        _common(verb)
        verb.add_argument("--host", help="address of the public doors (127.0.0.1)")
        verb.add_argument("--port", type=_port, help="port of the gateway (8700); 0 picks a free one")
        verb.add_argument("--s3-port", type=_port, help="port of the object store (8733); 0 picks a free one")
        verb.add_argument("--detach", action="store_true", help="return when everything answers")
        if name == "run":
            verb.add_argument("--report-fd", type=int, required=True)
            verb.add_argument("--lock-fd", type=int, required=True, help="inherited: it holds the lock while we live")
    _common(verbs.add_parser("down", help="stop everything, workloads too"))
    _common(verbs.add_parser("status", help="what runs, and how well"))
    return parser


def _common(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--home", help="MW_HOME")
    verb.add_argument("--json", action="store_true", help="the last line is one JSON object")
    verb.add_argument("--grace", type=float, default=GRACE, help="seconds that workloads get to end by themselves")


def _port(text: str) -> int:
    number = int(text)
    if not 0 <= number <= 65535:
        raise argparse.ArgumentTypeError(f"{number} is not a port (0-65535)")
    return number
