"""Alembic's environment. ``db/migrate`` passes the connection; ``alembic revision --autogenerate`` works with a URL."""

from __future__ import annotations

from alembic import context

from modelworks.db.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    compare_server_default=True,
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
