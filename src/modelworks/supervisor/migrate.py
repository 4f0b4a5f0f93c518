"""``python -m modelworks.main migrate``: the database's schema becomes this version's."""

from __future__ import annotations

import json

from modelworks.db.migrate import migrate
from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed
from modelworks.settings import Settings


def run(home: Home) -> None:
    """Migrate the external database of the settings, or the embedded one. Raises SetupFailed, or Unavailable."""
    path = home.secrets / "database.json"
    url = Settings.load(home).database_url
    try:
        migrate(url or str(json.loads(path.read_text("utf-8"))["url"]))
    except FileNotFoundError as error:
        raise SetupFailed(f"{path} does not exist", remedy="start the platform with `mw up`") from error
