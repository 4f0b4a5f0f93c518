"""Ten thousand stored resources: a page of them, and what a pass over all of them costs when none changed."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import httpx
import psycopg
from tests.bench.harness import Entry, Figure, Unmeasurable, client, platform_home, up

LIST_P99 = Figure("api.list_p99_ms", "ms", 50, "lower")
IDLE_PASS = Figure("control.idle_pass_cpu_s", "s", 1, "lower")
FIGURES = (LIST_P99, IDLE_PASS)
_RESOURCES = 10_000
_BATCH = 500
_PAGES = 300
_PAGE = 100
_PASSES = 5
_POLL = 0.02
_LEFT = "SELECT count(*) FROM resources WHERE kind = 'Model' AND (wake_at IS NOT NULL OR lease_token IS NOT NULL)"


def run() -> Sequence[Entry]:
    with platform_home() as home:
        up(home)
        access = client(home)
        with httpx.Client(
            base_url=f"{access['url']}/api/v1",
            headers={"Authorization": f"Bearer {access['api_key']}"},
            timeout=120,
        ) as api:
            for start in range(0, _RESOURCES, _BATCH):
                _store(api, range(start, start + _BATCH))
            pid = _controller(home)
            _settle(pid)
            passes = [_pass(home, pid) for _ in range(_PASSES)]
            _settle(pid)
            milliseconds = _pages(api)
    context = {"resources": _RESOURCES}
    return [
        LIST_P99.entry(
            statistics.quantiles(milliseconds, n=100)[98],
            p50=round(statistics.median(milliseconds), 3),
            page=_PAGE,
            pages=_PAGES,
            **context,
        ),
        IDLE_PASS.medians(passes, **context),
    ]


def _store(api: httpx.Client, numbers: range) -> None:
    manifests = [
        {"apiVersion": "modelworks/v1", "kind": "Model", "metadata": {"name": f"m-{i:05}"}, "spec": {}} for i in numbers
    ]
    answer = api.post("/apply", json={"manifests": manifests, "dry_run": False})
    if answer.status_code != 200:
        raise Unmeasurable(f"the resources were refused: {answer.text[:300]}")


def _pages(api: httpx.Client) -> list[float]:
    milliseconds: list[float] = []
    cursor: str | None = None
    while len(milliseconds) < _PAGES:
        start = time.perf_counter()
        answer = api.get("/resources/Model", params={"limit": _PAGE, **({"cursor": cursor} if cursor else {})})
        milliseconds.append((time.perf_counter() - start) * 1000)
        answer.raise_for_status()
        cursor = answer.json()["next_cursor"]
    return milliseconds


def _pass(home: Path, pid: int) -> float:
    """The controller's CPU seconds from the moment at which every resource is due until none is, and none is leased."""
    url = json.loads((home / "secrets/database.json").read_text())["url"].replace("+psycopg", "")
    with psycopg.connect(url, autocommit=True) as database:
        before, end = _cpu(pid), time.monotonic() + 120
        due = database.execute("UPDATE resources SET wake_at = now() WHERE kind = 'Model'").rowcount
        if due != _RESOURCES:
            raise Unmeasurable(f"{due} resources were made due, not {_RESOURCES}")
        # With no name: look at all that is due.
        database.execute("NOTIFY mw_resources")
        while True:
            row = database.execute(_LEFT).fetchone()
            if row is not None and row[0] == 0:
                return _cpu(pid) - before
            if time.monotonic() > end:
                raise Unmeasurable(f"the pass did not end within 120 s: {row} are left")
            time.sleep(_POLL)


def _settle(pid: int) -> None:
    """Until the controller has looked at what is new: it rests for three seconds."""
    end, quiet, last = time.monotonic() + 180, 0, _cpu(pid)
    while quiet < 3:
        time.sleep(1)
        now = _cpu(pid)
        quiet = quiet + 1 if now - last < 0.1 else 0
        last = now
        if time.monotonic() > end:
            raise Unmeasurable("the controller did not come to rest within 180 s")


def _controller(home: Path) -> int:
    """The controller's pid, by its command line."""
    wanted = [b"controller", b"--home", str(home).encode()]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if any(words[i : i + 3] == wanted for i in range(len(words))):
                return int(entry.name)
    raise Unmeasurable(f"no controller runs for {home}")


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
