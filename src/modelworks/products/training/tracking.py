"""What a job is told of the tracking server. Pure.

The address comes from the agent, which knows how its node reaches the platform, and the token from the controller.
"""

from __future__ import annotations

from modelworks.kernel.errors import FieldError, Invalid
from modelworks.products.training.spec import TrainingJobSpec
from modelworks.tracking.available import REMEDY
from modelworks.tracking.tokens import ADDRESS, MARK


def resolve(spec: TrainingJobSpec, *, available: bool) -> bool:
    """Whether the job is tracked. Raises Invalid when it asks for what the platform does not have."""
    if spec.tracking and not available:
        said = "this platform has no tracking server"
        raise Invalid("the job cannot be tracked", remedy=REMEDY, fields=(FieldError("spec.tracking", said),))
    return available and spec.tracking is not False


def variables(spec: TrainingJobSpec, uid: str, name: str) -> dict[str, str]:
    """The same for every attempt and replica: they write to one run. None for a job with a server of its own."""
    if ADDRESS in spec.env or any(ADDRESS in role.env for role in spec.roles):
        return {}
    return {
        MARK: uid,
        "MLFLOW_EXPERIMENT_NAME": spec.experiment or name,
        "MLFLOW_RUN_NAME": name,
        # A metric is not worth waiting for: it is sent beside the loop, and again when the server is away.
        "MLFLOW_ENABLE_ASYNC_LOGGING": "true",
    }
