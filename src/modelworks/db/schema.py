"""Whether a database has this version's schema: asked by every controller at its start, without loading Alembic."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Engine, text

from modelworks.kernel.errors import SetupFailed

_REVISIONS = sorted(
    path.stem.partition("_")[0] for path in (Path(__file__).parent / "migrations/versions").glob("0*.py")
)
HEAD = _REVISIONS[-1]


def is_current(engine: Engine) -> bool:
    """False while migrations are missing. Raises SetupFailed for a schema that is newer than this program."""
    with engine.connect() as connection:
        if connection.scalar(text("SELECT to_regclass('alembic_version')")) is None:
            return False
        found = connection.scalar(text("SELECT version_num FROM alembic_version"))
    if found is not None and found not in _REVISIONS:
        raise SetupFailed(
            f"the database has schema {found}, this program knows {HEAD}",
            remedy="start the newer version of Modelworks that wrote it, or restore a backup from before",
        )
    return bool(found == HEAD)
