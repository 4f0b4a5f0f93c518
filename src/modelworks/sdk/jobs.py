"""Following a job: its log as it grows, through retries and restarts of the platform, until it has ended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

from modelworks.kernel.errors import TimedOut, WorkloadFailed
from modelworks.sdk.client import Client, Document
from modelworks.sdk.waiting import JOB_ENDED, phase_of, status_of, until

KIND = "TrainingJob"
_LOOK_AGAIN = 2.0
_WITHOUT_LOG = ("", "Queued", "Preparing")
_WAITING = ("Queued", "Preparing", "Retrying", "Finalizing")


def wait(client: Client, name: str, on_change: Callable[[Document], None] | None = None) -> Document:
    """The job once it has ended, well or badly."""
    return until(client, KIND, name, ended, on_change=on_change)


def tell_waits(say: Callable[[str], None]) -> Callable[[Document], None]:
    """For ``on_change``: says what a job waits for, whenever that changes."""
    told = ""

    def tell(job: Document) -> None:
        nonlocal told
        status = status_of(job)
        text = str(status.get("message") or "")
        if status.get("phase") in _WAITING and text not in ("", told):
            told = text
            say(text)

    return tell


def ended(job: Document) -> bool:
    return phase_of(job) in JOB_ENDED


def follow(
    client: Client,
    name: str,
    write: Callable[[bytes], None],
    on_change: Callable[[Document], None] | None = None,
    replica: int | None = None,
) -> Document:
    """Write the log of every attempt as it grows; the job once it has ended. Every byte is written once."""
    until(client, KIND, name, lambda j: phase_of(j) not in _WITHOUT_LOG, on_change=on_change)
    offset = 0
    while True:
        job = client.get(KIND, name)
        over = ended(job)  # asked before the log is read: what is read after it is all there is
        for chunk in client.job_log(name, follow=not over, offset=offset, replica=replica):
            offset += len(chunk)
            write(chunk)
        if over:
            return job
        with contextlib.suppress(TimedOut):  # the log ended and the job did not (yet): look again
            until(client, KIND, name, ended, on_change=on_change, timeout=_LOOK_AGAIN)


def check(job: Document) -> Document:
    """The job when it succeeded. Raises WorkloadFailed with its message and last lines."""
    status, name = status_of(job), job["metadata"]["name"]
    phase = status.get("phase")
    if phase == "Succeeded":
        return job
    lines = [str(line) for line in status.get("last_lines") or ()]
    detail = f"job {name} {'was cancelled' if phase == 'Cancelled' else 'failed'}"
    message = str(status.get("message") or "")
    text = f"{detail}: {message}" if message else detail
    raise WorkloadFailed("\n".join([text, *(f"  | {line}" for line in lines[-10:])]), remedy=f"mw job log {name}")


def output_uri(job: Document) -> str | None:
    """Where a job's committed output is; None before there is one."""
    outputs = list(status_of(job).get("outputs") or ())
    named = [item for item in outputs if item.get("name") == "model"] or outputs
    return str(named[0]["uri"]) if named else None
