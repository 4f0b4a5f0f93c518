"""``python -m modelworks.supervisor.sweep <home>``: end the runs of a home whose agent is gone.

A process of its own, since the runtime's code is much larger than the supervisor.
"""

from __future__ import annotations

import sys
from pathlib import Path

from modelworks.home import Home
from modelworks.runtime.local import kill_all


def main(home: Home) -> None:
    ended = kill_all(home)
    if ended:
        print(f"stopped {ended} workload{'' if ended == 1 else 's'} that had no agent")


if __name__ == "__main__":
    main(Home(Path(sys.argv[1])))
