"""``python -m modelworks.main migrate``: the database's schema becomes this version's."""

from __future__ import annotations

import json

from modelworks.db.migrate import migrate
from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed


def run(home: Home) -> None:
    """Migrate the database, embedded or external, that `mw up` has written down. Raises SetupFailed, or Unavailable."""
    path = home.secrets / "database.json"
    try:
        migrate(str(json.loads(path.read_text("utf-8"))["url"]))
    except FileNotFoundError as error:
        raise SetupFailed(f"{path} does not exist", remedy="start the platform with `mw up`") from error
