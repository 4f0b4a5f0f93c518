"""Requests a second of a whole service (gateway, token check, replica), beside other servers with the same model.

Every peer is without a gateway and without authorization, as its documentation starts it, and has its own rounds
interleaved with ours in one run: ``wrk`` with 16 connections posts 64 numbers as JSON. All share the machine's cores.
The raw loop is ONNX Runtime alone on images that lie in memory already, at its best: of several sizes of a batch, and
of one loop whose calls use both cores or two loops with one core each.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from tests.bench import models, peer_servers
from tests.bench.harness import (
    Entry,
    Figure,
    Unmeasurable,
    folder,
    interleaved,
    mw,
    platform_home,
    tool,
    up,
)

VS_FASTAPI = Figure("serving.vs_fastapi", "ratio", 2.0, "higher")
VS_LITSERVE = Figure("serving.vs_litserve", "ratio", 10.0, "higher")
VS_BENTOML = Figure("serving.vs_bentoml", "ratio", 12.0, "higher")
VS_RAYSERVE = Figure("serving.vs_rayserve", "ratio", 40.0, "higher")
VS_RAW_ORT = Figure("serving.vs_raw_ort", "ratio", 0.9, "higher")
FIGURES = (VS_FASTAPI, VS_LITSERVE, VS_BENTOML, VS_RAYSERVE, VS_RAW_ORT)
PEERS = {"fastapi": VS_FASTAPI, "litserve": VS_LITSERVE, "bentoml": VS_BENTOML, "rayserve": VS_RAYSERVE}

_ROUNDS = 6
_SECONDS = 3
_CONNECTIONS = 16
_BATCH = 8
# Of images: in three seconds the batches that are under way at the end would be one in a hundred.
_LONGER = 8
_CORES = 2
_BODY = json.dumps({"instances": [[i / 64 for i in range(64)]]}).encode()
_LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "{media_type}"
wrk.headers["Authorization"] = "{token}"
local file = io.open("{body}", "rb")
wrk.body = file:read("*a")
file:close()
"""


@dataclass(frozen=True)
class Load:
    """What ``wrk`` is to send."""

    script: Path
    connections: int = _CONNECTIONS
    seconds: int = _SECONDS

    def rate(self, url: str) -> float:
        """Requests a second. Raises Unmeasurable when an answer was not 2xx."""
        argv = [
            tool("wrk"),
            "-t1",
            f"-c{self.connections}",
            f"-d{self.seconds}s",
            "--timeout",
            "30s",
            "-s",
            str(self.script),
        ]
        out = subprocess.run([*argv, url], capture_output=True, text=True, check=True).stdout
        found = re.search(r"Requests/sec:\s+([\d.]+)", out)
        if found is None or "Non-2xx" in out or "Socket errors" in out:
            raise Unmeasurable(f"{url} answered with errors: {out}")
        return float(found[1])


def run() -> Sequence[Entry]:
    tool("wrk")
    entries: list[Entry] = []
    with folder() as at, platform_home() as home:
        up(home)
        small, body = models.small(at / "small.onnx"), at / "row.json"
        body.write_bytes(_BODY)
        with service(home, at, "small", small, batching=16) as (url, token):
            ours = Load(_script(at, "ours", "application/json", token, body))
            theirs = Load(_script(at, "theirs", "application/json", "", body))
            ours.rate(url)  # warm
            for name, figure in PEERS.items():
                entries.append(_beside(name, figure, small, lambda: ours.rate(url), theirs))
        entries.append(_images(home, at))
    return entries


def _beside(name: str, figure: Figure, model: Path, ours: Callable[[], float], load: Load) -> Entry:
    try:
        with peer_servers.running(name, model, _BODY) as url:
            load.rate(url)  # warm
            mine, other = interleaved([ours, lambda: load.rate(url)], _ROUNDS)
    except Unmeasurable as reason:
        return figure.missing(str(reason))
    ratios = [a / b for a, b in zip(mine, other, strict=True)]
    return figure.medians(
        ratios,
        ours_rps=round(statistics.median(mine)),
        peer_rps=round(statistics.median(other)),
        connections=_CONNECTIONS,
        seconds=_SECONDS,
    )


def _images(home: Path, at: Path) -> Entry:
    """Images a second: a request holds one, and the replica makes batches of them."""
    try:
        model = models.efficientnet(at / "efficientnet.onnx")
    except Unmeasurable as reason:
        return VS_RAW_ORT.missing(str(reason))
    image, body = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8), at / "image.npy"
    np.save(body, image)
    with service(home, at, "images", model, batching=_BATCH, cpu=2) as (url, token):
        load = Load(_script(at, "images", "application/x-npy", token, body), 2 * _BATCH, _LONGER)
        load.rate(url)  # warm
        sizes = [(beside, batch) for beside in (1, _CORES) for batch in (1, 4, _BATCH)]
        found = {size: _raw(model, image, *size)(_SECONDS) for size in sizes}
        best = max(found, key=lambda size: found[size])
        single = max((size for size in sizes if size[0] == 1), key=lambda size: found[size])
        loop, one = _raw(model, image, *best), _raw(model, image, *single)
        whole, raw, other = interleaved([lambda: load.rate(url), lambda: loop(_LONGER), lambda: one(_LONGER)], _ROUNDS)
    ratios = [a / b for a, b in zip(whole, raw, strict=True)]
    return VS_RAW_ORT.medians(
        ratios,
        ours_images_per_s=round(statistics.median(whole), 1),
        raw_images_per_s=round(statistics.median(raw), 1),
        raw_loops=best[0],
        raw_batch=best[1],
        one_loop_images_per_s=round(statistics.median(other), 1),
        one_loop_batch=single[1],
        vs_one_loop=round(statistics.median(a / b for a, b in zip(whole, other, strict=True)), 4),
        max_batch_size=_BATCH,
    )


def _raw(
    model: Path, image: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], loops: int, batch: int
) -> Callable[[float], float]:
    """So many loops of ONNX Runtime alone that share both cores; measures images a second, for so many seconds."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = _CORES // loops
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    feed = {"image": np.repeat(image, batch, axis=0)}
    session.run(None, feed)

    def measure(seconds: float) -> float:
        began = time.perf_counter()

        def loop(_: int) -> float:
            count = 0
            while (took := time.perf_counter() - began) < seconds:
                session.run(None, feed)
                count += batch
            return count / took

        with ThreadPoolExecutor(loops) as pool:
            return sum(pool.map(loop, range(loops)))

    return measure


@contextmanager
def service(
    home: Path, at: Path, name: str, model: Path, *, batching: int, cpu: int = 1, wait: bool = True, **more: Any
) -> Iterator[tuple[str, str]]:
    """An ONNX service, ready unless ``wait`` is False; ``more`` is of its spec. Yields its URL and token."""
    mw(home, "model", "register", name, "--uri", str(model))
    manifest = at / f"{name}.json"
    spec = {
        "processor": "onnx",
        "model": f"{name}:1",
        "resources": {"cpu": cpu, "memory": "1Gi"},
        "concurrency": 2 * batching,
        "batching": {"max_batch_size": batching},
        **more,
    }
    document = {"apiVersion": "modelworks/v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}
    manifest.write_text(json.dumps(document))
    mw(home, "service", "create", "-f", str(manifest), *(["--wait"] if wait else []))
    found = json.loads(mw(home, "service", "get", name, "--json").stdout)
    try:
        yield found["endpoint"], mw(home, "service", "token", name).stdout.strip()
    finally:
        mw(home, "service", "delete", name)


def _script(at: Path, name: str, media_type: str, token: str, body: Path) -> Path:
    path = at / f"{name}.lua"
    path.write_text(_LUA.format(media_type=media_type, token=token, body=body))
    return path
