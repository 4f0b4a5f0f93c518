"""The step between the database's start and the controller's: its schema is this version's."""

from __future__ import annotations

import json

from modelworks.db.migrate import migrate
from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed


def run(home: Home) -> None:
    """Migrate the database that ``secrets/database.json`` names. Raises SetupFailed, or Unavailable."""
    path = home.secrets / "database.json"
    try:
        url = json.loads(path.read_text("utf-8"))["url"]
    except FileNotFoundError as error:
        raise SetupFailed(f"{path} does not exist", remedy="`mw up` writes it") from error
    migrate(str(url))
