"""What other products use of billing."""

from __future__ import annotations

from modelworks.products.billing.cost import estimate
from modelworks.products.billing.queries import hourly, occupations

__all__ = ["estimate", "hourly", "occupations"]
