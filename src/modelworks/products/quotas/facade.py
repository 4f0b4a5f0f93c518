"""What other products and the controller use of quotas."""

from __future__ import annotations

from sqlalchemy import Connection

from modelworks.db.listen import CLAIMS, notify
from modelworks.kernel.resource import Metadata, Resource
from modelworks.products.kind import Kind, Lookup, Resolved
from modelworks.products.quotas.queries import KIND, Budget, budgets, limits, spent
from modelworks.products.quotas.spec import QuotaSpec


def _resolve(metadata: Metadata, spec: QuotaSpec, lookup: Lookup) -> Resolved:
    """No names; admission looks again when the transaction is committed, and not at all if it is not."""
    notify(lookup.connection, CLAIMS)
    return Resolved()


def _released(resource: Resource, connection: Connection) -> None:
    notify(connection, CLAIMS)


QUOTA = Kind(
    name=KIND,
    plural="quotas",
    spec=QuotaSpec,
    resolve=_resolve,
    check_delete=_released,
    administrators=True,
    example={
        "apiVersion": "modelworks/v1",
        "kind": KIND,
        "metadata": {"name": "vision", "workspace": "vision"},
        "spec": {
            "instances": {"local.gpu": 4},
            "cpu": "32",
            "memory": "128Gi",
            "spend": {"amount": 500, "per": "month"},
        },
    },
)

__all__ = ["QUOTA", "Budget", "QuotaSpec", "budgets", "limits", "spent"]
