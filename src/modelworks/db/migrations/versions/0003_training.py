"""Training: claims that are to be given back, and nodes that are to be emptied."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

_SCHEMA = """
ALTER TABLE claims ADD COLUMN evict_at TIMESTAMP WITH TIME ZONE;
ALTER TABLE claims ADD COLUMN evict_reason TEXT DEFAULT '' NOT NULL;
ALTER TABLE claims ADD COLUMN evict_for TEXT DEFAULT '' NOT NULL;
ALTER TABLE claims ADD COLUMN reservation TEXT;
ALTER TABLE claims ADD COLUMN retry_at TIMESTAMP WITH TIME ZONE;
ALTER TABLE nodes ADD COLUMN drain_by TIMESTAMP WITH TIME ZONE;
ALTER TABLE nodes ADD COLUMN drain_reason TEXT DEFAULT '' NOT NULL;
ALTER TABLE nodes ADD COLUMN away_at TIMESTAMP WITH TIME ZONE;
"""


def upgrade() -> None:
    for statement in _SCHEMA.split(";\n"):
        if statement.strip():
            op.execute(statement)
