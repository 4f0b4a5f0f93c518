"""The queue in `mw job`: everybody's place, and one job's."""

from __future__ import annotations

from modelworks.cli.command import Invocation
from modelworks.kernel.quantities import format_duration
from modelworks.sdk.client import Client, Document


def show(call: Invocation) -> None:
    """The workspace's part of the queue."""
    answer = call.connect().queue()
    if call.out.as_json:
        call.out.document(answer)
        return
    rows = [
        (
            entry["position"],
            f"{entry['kind']}/{entry['name']}",
            entry["priority"],
            entry["replicas"],
            format_duration(float(int(entry["waited"]))),
            entry["reason"],
        )
        for entry in answer["items"]
    ]
    columns = ("PLACE", "RESOURCE", "PRIORITY", "REPLICAS", "WAITED", "WAITS FOR")
    call.out.table(columns, rows, right=("PLACE", "PRIORITY", "REPLICAS"))


def place_of(client: Client, name: str) -> Document:
    """``{"queue": {place, of, behind, …}}`` of a job that waits; nothing when it does not any more."""
    answer = client.queue(name)
    for entry in answer["items"]:
        if entry["kind"] == "TrainingJob":
            behind = f" behind {entry['behind']}" if entry["behind"] else ""
            text = f"{_ordinal(entry['position'])} of {answer['length']} in the queue{behind}"
            return {"queue": {"place": entry["position"], "of": answer["length"], "text": text}}
    return {}


def _ordinal(number: int) -> str:
    """``1st``, ``2nd``, ``3rd``, ``11th``."""
    if number % 100 in (11, 12, 13):
        return f"{number}th"
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th') }"
