"""The tables, as SQLAlchemy Core. PostgreSQL is the only dialect; a test compares the migrations with this."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)


def _now() -> Column[object]:
    return Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now())


_empty = text("'{}'::jsonb")

resource_version = Sequence("resource_version", metadata=metadata)

resources = Table(
    "resources",
    metadata,
    Column("uid", Text, primary_key=True),
    Column("workspace", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("generation", Integer, nullable=False, server_default="1"),
    Column("spec", JSONB, nullable=False),
    Column("resolved", JSONB, nullable=False, server_default=_empty),
    Column("status", JSONB, nullable=False, server_default=_empty),
    Column("labels", JSONB, nullable=False, server_default=_empty),
    # Grows with every write, of the spec or the status: what `watch` and optimistic writes compare.
    Column("version", BigInteger, nullable=False, server_default=text("nextval('resource_version'::regclass)")),
    _now(),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("deleting", DateTime(timezone=True)),
    # NULL: nothing to do until somebody changes or notifies it.
    Column("wake_at", DateTime(timezone=True), server_default=func.now()),
    Column("lease_token", Text),
    Column("lease_expires", DateTime(timezone=True)),
    UniqueConstraint("workspace", "kind", "name"),
    Index("ix_resources_wake_at", "wake_at", postgresql_where=text("wake_at IS NOT NULL")),
    Index("ix_resources_kind_name", "kind", "workspace", "name"),
    Index("ix_resources_labels", "labels", postgresql_using="gin"),
)

events = Table(
    "events",
    metadata,
    Column("seq", BigInteger, Identity(always=True), primary_key=True),
    # The writing transaction. A reader takes only rows below pg_snapshot_xmin, in the order (xid, seq), so that a
    # cursor never skips a row that was numbered earlier and committed later.
    Column("xid", BigInteger, nullable=False, server_default=text("pg_current_xact_id()::text::bigint")),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("workspace", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("uid", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("level", Text, nullable=False, server_default="normal"),
    Column("data", JSONB, nullable=False, server_default=_empty),
    Index("ix_events_xid_seq", "xid", "seq"),
    Index("ix_events_uid_seq", "uid", "seq"),
    Index("ix_events_workspace_kind_name_seq", "workspace", "kind", "name", "seq"),
)

nodes = Table(
    "nodes",
    metadata,
    Column("name", Text, primary_key=True),
    Column("observation", JSONB, nullable=False),
    Column("seen_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("cordoned", Boolean, nullable=False, server_default=text("false")),
    # Everything that can be moved leaves the node: until then, and why. NULL: nobody has asked.
    Column("drain_by", DateTime(timezone=True)),
    Column("drain_reason", Text, nullable=False, server_default=""),
    Column("away_at", DateTime(timezone=True)),  # since when it does not answer; NULL: it does
)

claims = Table(
    "claims",
    metadata,
    Column("key", Text, primary_key=True),
    Column("uid", Text, nullable=False),
    Column("gang", Text, nullable=False),
    Column("claim", JSONB, nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("node", Text),  # NULL: waiting
    Column("reason", Text, nullable=False, server_default=""),
    _now(),
    Column("placed_at", DateTime(timezone=True)),
    # A placed claim that is to be given back: by when, and for whom. Its owner sees it and stops what it holds.
    Column("evict_at", DateTime(timezone=True)),
    Column("evict_reason", Text, nullable=False, server_default=""),
    Column("evict_for", Text, nullable=False, server_default=""),  # the gang that is to have its room
    # The group that holds its room in a cluster which others use too. Until the cluster has granted it, placed_at is
    # NULL and retry_at says since when it is asked; what it refused is not placed again before retry_at.
    Column("reservation", Text),
    Column("retry_at", DateTime(timezone=True)),
    Index("ix_claims_uid", "uid"),
    Index("ix_claims_gang", "gang"),
)

ledger = Table(
    "ledger",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("key", Text, nullable=False),
    Column("workspace", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("uid", Text, nullable=False),
    Column("item", Text, nullable=False),  # an instance type, "volume", "storage"
    Column("quantity", Float, nullable=False, server_default="1"),
    Column("unit", Text, nullable=False, server_default="instance"),
    Column("price_per_hour", Float, nullable=False),  # for one unit
    Column("began_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("ended_at", DateTime(timezone=True)),
    Column("owner", Text),  # the uid of the resource that has made this one; NULL: somebody has applied it
    CheckConstraint("ended_at IS NULL OR ended_at >= began_at", name="interval"),
    Index("uq_ledger_open", "key", unique=True, postgresql_where=text("ended_at IS NULL")),
    Index("ix_ledger_uid", "uid"),
    Index("ix_ledger_began_at", "began_at"),
    Index("ix_ledger_name", "workspace", "name"),
    # What a workspace spent lately is asked with every pass of admission, and the table only grows.
    Index("ix_ledger_workspace_ended_at", "workspace", "ended_at"),
)

routes = Table(
    "routes",
    metadata,
    Column("workspace", Text, primary_key=True),
    Column("name", Text, primary_key=True),
    Column("uid", Text, nullable=False),
    Column("route", JSONB, nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

secrets = Table(
    "secrets",
    metadata,
    Column("uid", Text, primary_key=True),  # of the resource it belongs to
    Column("name", Text, primary_key=True),  # such as "token"
    Column("ciphertext", LargeBinary, nullable=False),
    Column("sha256", Text, nullable=False),
    _now(),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", Text, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("sha256", Text, nullable=False, unique=True),
    Column("workspace", Text),  # NULL: every workspace
    Column("read_only", Boolean, nullable=False, server_default=text("false")),
    _now(),
    Column("revoked_at", DateTime(timezone=True)),
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("workspace", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("uri", Text, nullable=False),
    Column("digest", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("files", JSONB, nullable=False),
    Column("metrics", JSONB, nullable=False, server_default=_empty),
    Column("lineage", JSONB, nullable=False, server_default=_empty),
    Column("description", Text, nullable=False, server_default=""),
    _now(),
    Column("retired_at", DateTime(timezone=True)),
)

bucket_usage = Table(
    "bucket_usage",
    metadata,
    Column("uid", Text, ForeignKey("resources.uid", ondelete="CASCADE"), primary_key=True),
    Column("bytes", BigInteger, nullable=False),
    Column("objects", BigInteger, nullable=False),
    Column("measured_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

service_revisions = Table(
    "service_revisions",
    metadata,
    Column("uid", Text, ForeignKey("resources.uid", ondelete="CASCADE"), primary_key=True),
    Column("revision", Text, primary_key=True),
    Column("number", Integer, nullable=False),  # 1, 2, 3 … in the order they were first seen
    Column("spec", JSONB, nullable=False),
    Column("resolved", JSONB, nullable=False),
    _now(),
    UniqueConstraint("uid", "number"),
)

scale_decisions = Table(
    "scale_decisions",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("uid", Text, ForeignKey("resources.uid", ondelete="CASCADE"), nullable=False),
    Column("at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("before", Integer, nullable=False),
    Column("after", Integer, nullable=False),
    Column("reason", Text, nullable=False),
    Column("numbers", JSONB, nullable=False, server_default=_empty),  # what it was decided from
    Index("ix_scale_decisions_uid_id", "uid", "id"),
)

# Trials of sweeps, as the tuner and their jobs left them; the tuner's own tables are in the schema "optuna".
trials = Table(
    "trials",
    metadata,
    Column("uid", Text, ForeignKey("resources.uid", ondelete="CASCADE"), primary_key=True),  # of the sweep
    Column("number", Integer, primary_key=True),
    Column("parameters", JSONB, nullable=False),
    Column("state", Text, nullable=False, server_default="running"),
    Column("value", Float),
    Column("step", Integer),  # of the last report
    Column("reports", JSONB, nullable=False, server_default=_empty),  # step → value
    Column("prune", Boolean, nullable=False, server_default=text("false")),  # the algorithm wants it to end
    Column("reason", Text, nullable=False, server_default=""),
    _now(),
    Column("ended_at", DateTime(timezone=True)),
)

# Requests to asynchronous services. A task is pending, leased (leased_until in the future) or finished (status set); a
# result is written only by who holds the lease.
tasks = Table(
    "tasks",
    metadata,
    Column("id", Text, primary_key=True),
    Column("uid", Text, nullable=False),  # of the service
    Column("seq", BigInteger, Identity(always=True), nullable=False),
    _now(),
    Column("expires_at", DateTime(timezone=True)),  # of the result
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("due_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("lease", Text),  # a token of who works on it
    Column("leased_until", DateTime(timezone=True)),
    Column("request", JSONB, nullable=False),  # method, path, headers
    Column("body", LargeBinary, nullable=False),  # empty once finished
    Column("finished_at", DateTime(timezone=True)),
    Column("status", Integer),  # HTTP, once finished
    Column("answer", JSONB),  # headers
    Column("result", LargeBinary),
    Column("webhook", Text),
    Column("notify_at", DateTime(timezone=True)),  # when the webhook is to be told; NULL: told, or none
    Column("notices", Integer, nullable=False, server_default="0"),  # how often that was tried
    Index("ix_tasks_open", "uid", "due_at", "seq", postgresql_where=text("finished_at IS NULL")),
    Index("ix_tasks_expires_at", "expires_at"),
    Index("ix_tasks_notify_at", "notify_at", postgresql_where=text("notify_at IS NOT NULL")),
)
