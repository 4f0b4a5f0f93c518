"""``client.json``: what the SDK and CLI of the local user need to know of the platform."""

from __future__ import annotations

import json

from modelworks.home import Home
from modelworks.kernel.errors import SetupFailed
from modelworks.supervisor.state import State, write_private


def write_client(home: Home, state: State) -> None:
    """Write url, S3 url and the local user's API key, which the controller made when it began. Raises SetupFailed."""
    path = home.secrets / "local.key"
    try:
        key = path.read_text("ascii").strip()
        text = json.dumps({"url": state.url, "api_key": key, "s3_url": state.s3_url}, indent=1) + "\n"
        write_private(home.client, text)
    except FileNotFoundError as error:
        raise SetupFailed(f"the controller has made no {path}", remedy=f"see {home.logs}/controller.log") from error
    except OSError as error:
        raise SetupFailed(
            f"cannot write {home.client}: {error}", remedy="correct that and run `mw up` again"
        ) from error
