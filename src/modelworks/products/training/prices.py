"""What a job's replicas cost an hour, on spot instances or not. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from modelworks.kernel.catalogue import spot_share
from modelworks.products.training.spec import TrainingJobSpec

PRICE, SPOT_PRICE = "price_per_hour", "spot_price_per_hour"


def price_of(spec: TrainingJobSpec, shape: Mapping[str, Any]) -> float:
    """Of one replica: the spot price where the job asks for it and the catalogue has one."""
    usual = float(shape.get(PRICE, 0.0))
    return float(shape.get(SPOT_PRICE, usual)) if spec.spot is not None else usual


def too_dear(spec: TrainingJobSpec, shapes: Iterable[Mapping[str, Any]]) -> str:
    """Why no replica may be placed at these prices: the first that is above ``spot.price_limit``; empty for none."""
    if spec.spot is None or spec.spot.price_limit is None:
        return ""
    for shape in shapes:
        share = spot_share(float(shape.get(PRICE, 0.0)), shape.get(SPOT_PRICE))
        if share > spec.spot.price_limit:
            name = shape.get("instance_type", "custom")
            return (
                f"waits for a lower spot price: {name} costs {share:.0%} of its usual price on spot, "
                f"and spot.price_limit is {spec.spot.price_limit:.0%}"
            )
    return ""
