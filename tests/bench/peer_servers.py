"""Other servers of models beside ours, each started as its documentation says, in an environment of their own."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
from tests.bench.harness import ROOT, Unmeasurable, free_port, wait_for

FOLDER = ROOT / "tests" / "bench" / "peers"
_ENVIRONMENT = ROOT / "build" / "peers"
_START = 120.0


def installed() -> Path:
    """The Python that has the peers: built once, and again when the requirements change. Raises Unmeasurable."""
    requirements = FOLDER / "requirements.txt"
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp, python = _ENVIRONMENT / "installed", _ENVIRONMENT / "bin" / "python"
    if not stamp.exists() or stamp.read_text() != wanted:
        uv = Path(sys.executable).with_name("uv")
        for argv in (
            [str(uv), "venv", "--quiet", "--clear", "--python", sys.executable, str(_ENVIRONMENT)],
            [str(uv), "pip", "install", "--quiet", "--python", str(python), "-r", str(requirements)],
        ):
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            if done.returncode:
                raise Unmeasurable(f"the peers cannot be installed: {done.stderr.strip()[-300:]}")
        stamp.write_text(wanted)
    return python


def commands(python: Path, port: int) -> Mapping[str, list[str]]:
    """How each peer is started on ``port``; all answer at ``/predict``."""
    return {
        "fastapi": [str(python), "fastapi_app.py", str(port)],
        "litserve": [str(python), "litserve_app.py", str(port)],
        "bentoml": [str(python.with_name("bentoml")), "serve", "bento_app:Model", "--port", str(port)],
        "rayserve": [str(python), "rayserve_app.py", str(port)],
    }  # fmt: skip


@contextmanager
def running(name: str, model: Path, body: bytes) -> Iterator[str]:
    """A peer that answers ``body``; yields its URL. All its processes end with the block. Raises Unmeasurable."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/predict"
    # What is told to nobody: usage statistics.
    quiet = {"BENTOML_DO_NOT_TRACK": "True", "RAY_USAGE_STATS_ENABLED": "0", "MODEL": str(model)}
    child = subprocess.Popen(
        commands(installed(), port)[name],
        cwd=FOLDER,
        env={**os.environ, **quiet},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(lambda: child.poll() is not None or _answers(url, body), _START, f"{name} did not answer")
        if child.poll() is not None:
            raise Unmeasurable(f"{name} ended with {child.returncode}")
        yield url
    finally:
        _end(child)


def _answers(url: str, body: bytes) -> bool:
    try:
        headers = {"Content-Type": "application/json"}
        return httpx.post(url, content=body, headers=headers, timeout=5, trust_env=False).status_code == 200
    except httpx.HTTPError:
        return False


def _end(child: subprocess.Popen[bytes]) -> None:
    """The process and all that it started, those of Ray in sessions of their own included."""
    family: list[psutil.Process] = []
    with suppress(psutil.NoSuchProcess):
        family = psutil.Process(child.pid).children(recursive=True)
    child.send_signal(signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        child.wait(15)
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, 10)
    child.kill()
    child.wait()
