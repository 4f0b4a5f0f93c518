"""``python -m modelworks.server``."""

from __future__ import annotations

import sys

from modelworks.server.process import main

sys.exit(main())
