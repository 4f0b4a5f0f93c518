"""Jobs: from submission to the first line of log at the client, its environment cached; ends and resumptions."""

from __future__ import annotations

import time
from collections.abc import Sequence

import httpx
from tests.bench import attempts
from tests.bench.harness import Entry, Figure, Unmeasurable, client, platform_home, up

FIRST_LINE = Figure("training.submit_to_first_line_s", "s", 0.4, "lower")
FIGURES = (FIRST_LINE, attempts.FAIL_TO_STOPPED, attempts.RESUME_EXTRA)
_JOBS = 20


def run() -> Sequence[Entry]:
    with platform_home() as home:
        up(home)
        access = client(home)
        with httpx.Client(
            base_url=f"{access['url']}/api/v1",
            headers={"Authorization": f"Bearer {access['api_key']}"},
            timeout=60,
        ) as api:
            _first_line(api, "warm")  # makes the environment
            seconds = [_first_line(api, f"line-{i}") for i in range(_JOBS)]
            ends = attempts.measure(api)
    return [FIRST_LINE.medians(seconds, jobs=_JOBS), *ends]


def _first_line(api: httpx.Client, name: str) -> float:
    manifest = {
        "apiVersion": "modelworks/v1",
        "kind": "TrainingJob",
        "metadata": {"name": name},
        "spec": {
            "command": ["python", "-c", "print('first')"],
            "environment": "default",
            "resources": {"cpu": "100m", "memory": "128Mi"},
        },
    }
    start = time.monotonic()
    applied = api.post("/apply", json={"manifests": [manifest], "dry_run": False})
    if applied.status_code != 200:
        raise Unmeasurable(f"the job was refused: {applied.text[:300]}")
    while time.monotonic() < start + 120:
        with api.stream("GET", f"/jobs/{name}/log", params={"follow": "true"}) as log:
            if log.status_code == 200:
                for line in log.iter_lines():
                    if "first" in line:
                        return time.monotonic() - start
        time.sleep(0.005)  # the stream has ended before the job's log began
    raise Unmeasurable(f"job {name} wrote no line within 120 s")
