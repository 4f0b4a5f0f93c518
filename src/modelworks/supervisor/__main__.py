"""``python -m modelworks.supervisor up | down | status``."""

from __future__ import annotations

import sys

from modelworks.supervisor.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
