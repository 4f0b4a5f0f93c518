"""Ledger rows of what a resource has made say who made it: names are anybody's, and what is deleted has no labels."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("ALTER TABLE ledger ADD COLUMN owner TEXT")
    op.execute(
        "UPDATE ledger SET owner = resources.labels ->> 'modelworks/owner' FROM resources "
        "WHERE resources.uid = ledger.uid AND resources.labels ? 'modelworks/owner'"
    )
