"""Serving: revisions of services, decisions of the autoscaler, tasks of asynchronous services."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

_SCHEMA = """
CREATE TABLE service_revisions (
    uid TEXT NOT NULL,
    revision TEXT NOT NULL,
    number INTEGER NOT NULL,
    spec JSONB NOT NULL,
    resolved JSONB NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_service_revisions PRIMARY KEY (uid, revision),
    CONSTRAINT uq_service_revisions_uid_number UNIQUE (uid, number),
    CONSTRAINT fk_service_revisions_uid FOREIGN KEY(uid) REFERENCES resources (uid) ON DELETE CASCADE
);

CREATE TABLE scale_decisions (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    uid TEXT NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    before INTEGER NOT NULL,
    after INTEGER NOT NULL,
    reason TEXT NOT NULL,
    numbers JSONB DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT pk_scale_decisions PRIMARY KEY (id),
    CONSTRAINT fk_scale_decisions_uid FOREIGN KEY(uid) REFERENCES resources (uid) ON DELETE CASCADE
);
CREATE INDEX ix_scale_decisions_uid_id ON scale_decisions (uid, id);

CREATE TABLE tasks (
    id TEXT NOT NULL,
    uid TEXT NOT NULL,
    seq BIGINT GENERATED ALWAYS AS IDENTITY,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    expires_at TIMESTAMP WITH TIME ZONE,
    attempts INTEGER DEFAULT '0' NOT NULL,
    due_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    lease TEXT,
    leased_until TIMESTAMP WITH TIME ZONE,
    request JSONB NOT NULL,
    body BYTEA NOT NULL,
    finished_at TIMESTAMP WITH TIME ZONE,
    status INTEGER,
    answer JSONB,
    result BYTEA,
    webhook TEXT,
    notify_at TIMESTAMP WITH TIME ZONE,
    notices INTEGER DEFAULT '0' NOT NULL,
    CONSTRAINT pk_tasks PRIMARY KEY (id)
);
CREATE INDEX ix_tasks_open ON tasks (uid, due_at, seq) WHERE finished_at IS NULL;
CREATE INDEX ix_tasks_expires_at ON tasks (expires_at);
CREATE INDEX ix_tasks_notify_at ON tasks (notify_at) WHERE notify_at IS NOT NULL;
"""


def upgrade() -> None:
    for statement in _SCHEMA.split(";\n"):
        if statement.strip():
            op.execute(statement)
