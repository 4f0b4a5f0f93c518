"""Training: claims that are to be given back, nodes that are to be emptied, trials of sweeps."""

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
CREATE TABLE trials (
    uid TEXT NOT NULL,
    number INTEGER NOT NULL,
    parameters JSONB NOT NULL,
    state TEXT DEFAULT 'running' NOT NULL,
    value FLOAT,
    step INTEGER,
    reports JSONB DEFAULT '{}'::jsonb NOT NULL,
    prune BOOLEAN DEFAULT false NOT NULL,
    reason TEXT DEFAULT '' NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_trials PRIMARY KEY (uid, number),
    CONSTRAINT fk_trials_uid FOREIGN KEY(uid) REFERENCES resources (uid) ON DELETE CASCADE
);
CREATE INDEX ix_ledger_name ON ledger (workspace, name);
CREATE INDEX ix_ledger_workspace_ended_at ON ledger (workspace, ended_at);
"""


def upgrade() -> None:
    for statement in _SCHEMA.split(";\n"):
        if statement.strip():
            op.execute(statement)
