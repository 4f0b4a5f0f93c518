"""Everything the platform stores: resources, events, nodes, claims, ledger, routes, secrets, keys, model versions."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

_SCHEMA = """
CREATE SEQUENCE resource_version;

CREATE TABLE api_keys (
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    workspace TEXT,
    read_only BOOLEAN DEFAULT false NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    revoked_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_api_keys PRIMARY KEY (id),
    CONSTRAINT uq_api_keys_name UNIQUE (name),
    CONSTRAINT uq_api_keys_sha256 UNIQUE (sha256)
);

CREATE TABLE claims (
    key TEXT NOT NULL,
    uid TEXT NOT NULL,
    gang TEXT NOT NULL,
    claim JSONB NOT NULL,
    priority INTEGER DEFAULT '0' NOT NULL,
    node TEXT,
    reason TEXT DEFAULT '' NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    placed_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_claims PRIMARY KEY (key)
);
CREATE INDEX ix_claims_gang ON claims (gang);
CREATE INDEX ix_claims_uid ON claims (uid);

CREATE TABLE events (
    seq BIGINT GENERATED ALWAYS AS IDENTITY,
    xid BIGINT DEFAULT pg_current_xact_id()::text::bigint NOT NULL,
    at TIMESTAMP WITH TIME ZONE DEFAULT clock_timestamp() NOT NULL,
    workspace TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    uid TEXT NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL,
    level TEXT DEFAULT 'normal' NOT NULL,
    data JSONB DEFAULT '{}'::jsonb NOT NULL,
    CONSTRAINT pk_events PRIMARY KEY (seq)
);
CREATE INDEX ix_events_uid_seq ON events (uid, seq);
CREATE INDEX ix_events_workspace_kind_name_seq ON events (workspace, kind, name, seq);
CREATE INDEX ix_events_xid_seq ON events (xid, seq);

CREATE TABLE ledger (
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    key TEXT NOT NULL,
    workspace TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    uid TEXT NOT NULL,
    item TEXT NOT NULL,
    quantity FLOAT DEFAULT '1' NOT NULL,
    unit TEXT DEFAULT 'instance' NOT NULL,
    price_per_hour FLOAT NOT NULL,
    began_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    ended_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_ledger PRIMARY KEY (id),
    CONSTRAINT ck_ledger_interval CHECK (ended_at IS NULL OR ended_at >= began_at)
);
CREATE INDEX ix_ledger_began_at ON ledger (began_at);
CREATE INDEX ix_ledger_uid ON ledger (uid);
CREATE UNIQUE INDEX uq_ledger_open ON ledger (key) WHERE ended_at IS NULL;

CREATE TABLE model_versions (
    workspace TEXT NOT NULL,
    model TEXT NOT NULL,
    version INTEGER NOT NULL,
    uri TEXT NOT NULL,
    digest TEXT NOT NULL,
    size BIGINT NOT NULL,
    files JSONB NOT NULL,
    metrics JSONB DEFAULT '{}'::jsonb NOT NULL,
    lineage JSONB DEFAULT '{}'::jsonb NOT NULL,
    description TEXT DEFAULT '' NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    retired_at TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_model_versions PRIMARY KEY (workspace, model, version)
);

CREATE TABLE nodes (
    name TEXT NOT NULL,
    observation JSONB NOT NULL,
    seen_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    cordoned BOOLEAN DEFAULT false NOT NULL,
    CONSTRAINT pk_nodes PRIMARY KEY (name)
);

CREATE TABLE resources (
    uid TEXT NOT NULL,
    workspace TEXT NOT NULL,
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    generation INTEGER DEFAULT '1' NOT NULL,
    spec JSONB NOT NULL,
    resolved JSONB DEFAULT '{}'::jsonb NOT NULL,
    status JSONB DEFAULT '{}'::jsonb NOT NULL,
    labels JSONB DEFAULT '{}'::jsonb NOT NULL,
    version BIGINT DEFAULT nextval('resource_version'::regclass) NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    deleting TIMESTAMP WITH TIME ZONE,
    wake_at TIMESTAMP WITH TIME ZONE DEFAULT now(),
    lease_token TEXT,
    lease_expires TIMESTAMP WITH TIME ZONE,
    CONSTRAINT pk_resources PRIMARY KEY (uid),
    CONSTRAINT uq_resources_workspace_kind_name UNIQUE (workspace, kind, name)
);
CREATE INDEX ix_resources_kind_name ON resources (kind, workspace, name);
CREATE INDEX ix_resources_labels ON resources USING gin (labels);
CREATE INDEX ix_resources_wake_at ON resources (wake_at) WHERE wake_at IS NOT NULL;

CREATE TABLE routes (
    workspace TEXT NOT NULL,
    name TEXT NOT NULL,
    uid TEXT NOT NULL,
    route JSONB NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_routes PRIMARY KEY (workspace, name)
);

CREATE TABLE secrets (
    uid TEXT NOT NULL,
    name TEXT NOT NULL,
    ciphertext BYTEA NOT NULL,
    sha256 TEXT NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_secrets PRIMARY KEY (uid, name)
);

CREATE TABLE bucket_usage (
    uid TEXT NOT NULL,
    bytes BIGINT NOT NULL,
    objects BIGINT NOT NULL,
    measured_at TIMESTAMP WITH TIME ZONE DEFAULT now() NOT NULL,
    CONSTRAINT pk_bucket_usage PRIMARY KEY (uid),
    CONSTRAINT fk_bucket_usage_uid FOREIGN KEY(uid) REFERENCES resources (uid) ON DELETE CASCADE
);
"""


def upgrade() -> None:
    for statement in _SCHEMA.split(";\n"):
        if statement.strip():
            op.execute(statement)
