"""A gateway alone, its one replica the benchmark's stub: ``… <home> <port> <stub socket> <token>``."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from modelworks.gateway.process import run
from modelworks.home import Home


def main(root: str, port: str, stub: str, token: str) -> None:
    home = Home(Path(root))
    route = {
        "service": "stub",
        "uid": "stub",
        "state": "ready",
        "message": "",
        "token_sha256": [hashlib.sha256(token.encode()).hexdigest()],
        "replicas": [{"id": "0-0", "address": f"unix:{stub}", "revision": "1"}],
    }
    home.gateway_snapshot.parent.mkdir(parents=True, exist_ok=True)
    home.gateway_snapshot.write_text(json.dumps({"routes": [route]}))
    run(home, port=int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
