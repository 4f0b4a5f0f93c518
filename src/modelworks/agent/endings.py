"""Why a run ended, in a word for decisions and a sentence for people. Pure."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from typing import Any

from modelworks.agent.lastwords import last_words
from modelworks.kernel.quantities import format_duration
from modelworks.kernel.run import FINISHED, RunObservation, RunPhase, RunReason, RunSpec
from modelworks.runtime.rundir import Exited, Stop

_HINTS = {
    signal.SIGSEGV: "a crash in native code",
    signal.SIGBUS: "a crash in native code, or /dev/shm is full",
    signal.SIGILL: "an instruction that this CPU does not have",
    signal.SIGABRT: "the program aborted itself",
    signal.SIGFPE: "an arithmetic error in native code",
}
# Of argparse, of Transformers' HfArgumentParser, and of click.
_UNKNOWN_ARGUMENTS = re.compile(
    r"error: unrecognized arguments: |not used by the HfArgumentParser: |[Nn]o such option: "
)
# What a service said so many seconds before its end was about something else: a request of then.
_RECENT = 10.0


def explain(
    spec: RunSpec,
    exited: Exited,
    stop: Stop | None,
    out_of_memory: str | None,
    lines: Sequence[str],
    said_at: float | None = None,
) -> tuple[RunReason, str]:
    """Reason and message of an ended process, from its exit, a stop that was wished before, and its last lines.

    ``said_at`` (Unix seconds) is when the last of them was written, where that is known.
    """
    if stop is not None and stop.at <= exited.at:
        return stop_reason(stop), _stopped(spec, stop, exited)
    if exited.code == 0:
        return RunReason.COMPLETED, ""
    if out_of_memory:
        return RunReason.OUT_OF_MEMORY, out_of_memory
    stale = spec.listen is not None and said_at is not None and exited.at - said_at > _RECENT
    last = "" if stale else last_words(lines)
    if exited.code in (125, 126, 127) and last.startswith("modelworks: "):
        return RunReason.START_FAILED, last.removeprefix("modelworks: ")
    if exited.code == 1 and last.startswith("bwrap: "):
        return RunReason.START_FAILED, f"the sandbox could not be made: {last.removeprefix('bwrap: ')}"
    text = describe_exit(exited)
    text = f"{text}: {last[:300]}" if last else text
    return RunReason.FAILED, "; ".join(part for part in (text, _remedy(spec, last)) if part)


def _remedy(spec: RunSpec, last: str) -> str:
    """What to do about a command that was not written for the script, as those that are passed around often are."""
    if _UNKNOWN_ARGUMENTS.search(last) is None:
        return ""
    passed = " or of the hyperparameters, which $PAI_USER_ARGS passes" if "PAI_USER_ARGS" in spec.env else ""
    return f"the script knows no such arguments: take them out of the command{passed}, or let its parser know them"


def whole(exited: Exited | None, stop: Stop | None, reason: RunReason) -> bool:
    """Whether what the run leaves is what it was to make. An exit code of 0 alone says that it heard of its end."""
    if exited is None or exited.code != 0:
        return False
    return reason is RunReason.COMPLETED or (stop is not None and stop.reason == FINISHED)


def result(
    last: RunObservation,
    exited: Exited | None,
    died_at: float | None,
    reason: RunReason,
    message: str,
    outputs: Mapping[str, Mapping[str, Any]],
    lines: tuple[str, ...],
) -> RunObservation:
    """The last observation of a run. One that nothing tells the end of (``exited`` None) ended at ``died_at``."""
    return last.model_copy(
        update={
            "phase": RunPhase.LOST if reason == RunReason.LOST else RunPhase.EXITED,
            "reason": reason,
            "message": message,
            "exited_at": exited.at if exited else died_at,
            "exit_code": exited.code if exited else None,
            "signal": exited.signal if exited else None,
            "ready": False,
            "address": None,
            "outputs": outputs,
            "last_lines": () if reason == RunReason.COMPLETED else lines,
        }
    )


def exit_fields(exited: Exited | None) -> dict[str, Any]:
    """How a process ended, as fields of an observation."""
    if exited is None:
        return {}
    return {"exited_at": exited.at, "exit_code": exited.code, "signal": exited.signal}


def describe_exit(exited: Exited) -> str:
    """``exit code 1``, ``killed by SIGSEGV (a crash in native code)``."""
    if exited.signal is None:
        return "exit code 127, command not found" if exited.code == 127 else f"exit code {exited.code}"
    try:
        number = signal.Signals(exited.signal)
    except ValueError:
        return f"killed by signal {exited.signal}"
    hint = _HINTS.get(number)
    return f"killed by {number.name} ({hint})" if hint else f"killed by {number.name}"


def stop_reason(stop: Stop) -> RunReason:
    try:
        return RunReason(stop.reason)
    except ValueError:
        return RunReason.STOPPED


def _stopped(spec: RunSpec, stop: Stop, exited: Exited) -> str:
    if stop.message:
        ignored = exited.signal == signal.SIGKILL and stop.grace > 0
        return f"{stop.message}; it ignored SIGTERM and was killed" if ignored else stop.message
    reason = stop_reason(stop)
    if reason == RunReason.TIME_LIMIT:
        return f"stopped: it ran longer than its time limit of {format_duration(spec.time_limit or 0)}"
    why = f"stopped ({stop.reason})" if reason == RunReason.STOPPED and stop.reason != "Stopped" else "stopped"
    if exited.signal == signal.SIGKILL:
        return f"{why}; it ignored SIGTERM for {format_duration(stop.grace)} and was killed"
    return why
