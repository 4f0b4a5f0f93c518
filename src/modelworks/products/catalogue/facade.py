"""What other products use of the catalogues: the kinds, and names made facts."""

from __future__ import annotations

from modelworks.kernel.catalogue import EnvironmentSpec, InstanceTypeSpec
from modelworks.products.catalogue.resolve import (
    EnvironmentChoice,
    Shape,
    find_environment,
    find_instance_type,
    resolve_environment,
    resolve_image,
    resolve_shape,
)
from modelworks.products.kind import Kind

ENVIRONMENT = Kind(
    name="Environment",
    plural="environments",
    spec=EnvironmentSpec,
    short=("env",),
    example={
        "apiVersion": "modelworks/v1",
        "kind": "Environment",
        "metadata": {"name": "forecasting"},
        "spec": {"requirements": ["numpy==2.4.6", "scikit-learn==1.9.1"]},
    },
)

INSTANCE_TYPE = Kind(
    name="InstanceType",
    plural="instancetypes",
    spec=InstanceTypeSpec,
    short=("it", "instance-type"),
    example={
        "apiVersion": "modelworks/v1",
        "kind": "InstanceType",
        "metadata": {"name": "lab.workstation"},
        "spec": {"cpu": 4, "memory": "16Gi", "price_per_hour": 0.2, "description": "The workstation in the lab"},
    },
)

__all__ = [
    "ENVIRONMENT",
    "INSTANCE_TYPE",
    "EnvironmentChoice",
    "Shape",
    "find_environment",
    "find_instance_type",
    "resolve_environment",
    "resolve_image",
    "resolve_shape",
]
