"""MLflow's tables, made or brought to the installed release before it looks at them."""

from __future__ import annotations

import logging

from mlflow.store.db import utils

log = logging.getLogger("modelworks.tracking.schema")


def upgrade(url: str) -> None:
    """Raises MlflowException when the database was made by a newer release."""
    engine = utils.create_sqlalchemy_engine_with_retry(url)
    try:
        utils._safe_initialize_tables(engine)
        if utils._get_schema_version(engine) != utils._get_latest_schema_revision():
            log.info("bringing MLflow's tables to the installed release")
            utils._upgrade_db(engine)
    finally:
        engine.dispose()
