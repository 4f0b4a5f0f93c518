"""A resource whose stored spec this release does not take: written by another release, or by a hand in the database.

It keeps its phase and what runs, since nobody here can say what it was to be; its message and a condition name the
field. One that never began has failed. Deleting it reads no spec, and works. Pure.
"""

from __future__ import annotations

from modelworks.kernel.decision import Action, Decision, Emit
from modelworks.kernel.errors import Invalid
from modelworks.kernel.events import Level
from modelworks.kernel.resource import Resource

REASON, CONDITION = "SpecInvalid", "SpecValid"
_AGAIN = 60.0  # seconds between two looks: only another release of the platform changes anything
_MOST_TOLD = 3


def unreadable(resource: Resource, error: Invalid) -> Decision:
    """The decision about a resource of which ``error`` tells what is wrong in its spec."""
    message = _message(error)
    others = [one for one in resource.status.get("conditions", ()) if one.get("type") != CONDITION]
    condition = {"type": CONDITION, "status": "False", "reason": REASON, "message": message}
    began = bool(resource.status.get("phase"))
    status = {
        **resource.status,
        **({} if began else {"phase": "Failed", "reason": REASON}),
        "message": message,
        "conditions": [*others, condition],
    }
    told: tuple[Action, ...] = ()
    if resource.status.get("message") != message:
        told = (Emit(REASON, message, Level.WARNING),)
    return Decision(status, told, wake_in=_AGAIN)


def _message(error: Invalid) -> str:
    wrong = "; ".join(f"{field.path}: {field.message}" for field in error.fields[:_MOST_TOLD]) or error.detail
    more = f"; {len(error.fields) - _MOST_TOLD} more" if len(error.fields) > _MOST_TOLD else ""
    return (
        f"this release of the platform cannot read the stored spec ({wrong}{more}): start the release that wrote it, "
        "or delete it and apply a corrected file"
    )
