"""What other products and the controller use of training."""

from __future__ import annotations

from modelworks.products.kind import Kind
from modelworks.products.training.decide import decide
from modelworks.products.training.inputs import advise
from modelworks.products.training.observe import observe
from modelworks.products.training.queries import CANCEL_REQUESTED
from modelworks.products.training.record import JobPhase
from modelworks.products.training.resolve import resolve
from modelworks.products.training.spec import Hyperparameter, TrainingJobSpec

TRAINING_JOB = Kind(
    name="TrainingJob",
    plural="trainingjobs",
    spec=TrainingJobSpec,
    short=("job", "jobs"),
    resolve=resolve,
    observe=observe,
    decide=decide,
    advise=advise,
    # A run cannot change under its process: another job is another name.
    immutable=("spec",),
    example={
        "apiVersion": "modelworks/v1",
        "kind": "TrainingJob",
        "metadata": {"name": "digits"},
        "spec": {
            "command": "python train.py",
            "code": "s3://mw-default/code/digits.tar.gz",
            "environment": "python-data",
            "instance_type": "local.small",
            "inputs": {"data": "s3://digits/train/"},
            "hyperparameters": {"max_iter": 200},
            "time_limit": "1h",
        },
    },
)

__all__ = ["CANCEL_REQUESTED", "TRAINING_JOB", "Hyperparameter", "JobPhase", "TrainingJobSpec"]
