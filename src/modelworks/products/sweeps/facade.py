"""What the controller uses of sweeps."""

from __future__ import annotations

from modelworks.products.kind import Kind
from modelworks.products.sweeps.decide import decide
from modelworks.products.sweeps.observe import observe
from modelworks.products.sweeps.resolve import resolve
from modelworks.products.sweeps.spec import SweepSpec

SWEEP = Kind(
    name="Sweep",
    plural="sweeps",
    spec=SweepSpec,
    resolve=resolve,
    observe=observe,
    decide=decide,
    # Trials of another job or other parameters are no trials of this sweep. How many of them may change.
    immutable=("spec.job", "spec.parameters", "spec.algorithm", "spec.objective"),
    example={
        "apiVersion": "modelworks/v1",
        "kind": "Sweep",
        "metadata": {"name": "digits"},
        "spec": {
            "job": {"command": "python train.py", "code": "s3://mw-default/code/digits.tar.gz"},
            "parameters": {
                "learning_rate": {"type": "float", "low": 0.0001, "high": 0.1, "log": True},
                "layers": {"type": "int", "low": 1, "high": 4},
                "optimizer": ["adam", "sgd"],
            },
            "algorithm": "tpe",
            "objective": {"metric": "loss", "goal": "minimize"},
            "trials": 40,
            "parallel": 4,
        },
    },
)

__all__ = ["SWEEP", "SweepSpec"]
