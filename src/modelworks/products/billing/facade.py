"""What other products use of billing."""

from __future__ import annotations

from modelworks.products.billing.cost import estimate

__all__ = ["estimate"]
