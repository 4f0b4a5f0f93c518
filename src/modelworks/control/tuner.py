"""The process that chooses the parameters of sweeps: started when it is asked, ended when it was not for a while.

One request at a time, and each may come twice (see ``modelworks/tuner``): a process that dies or hangs is replaced, and
the pass that asked is repeated.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, Engine

from modelworks.db import trials
from modelworks.kernel.decision import TuneTrials
from modelworks.kernel.errors import ModelworksError, SetupFailed, Unavailable
from modelworks.kernel.resource import Resource

_log = logging.getLogger(__name__)

MISSING = "Optuna is missing where the controller runs"
REMEDY = "install modelworks[sweeps] there"
_IDLE = 30.0  # seconds without a request after which it ends
_PATIENCE = 45.0  # seconds for one answer; less than a lease of a pass
_ENDING = 3.0


class Tuner:
    """``url`` is the database's. Threads take turns."""

    def __init__(self, url: str, *, idle: float = _IDLE) -> None:
        self._url = url
        self._idle = idle
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._timer: threading.Timer | None = None
        self._asked_at = 0.0

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """The answer. Raises Unavailable when there is none now, SetupFailed without Optuna, else ModelworksError."""
        with self._turn:
            try:
                if self._process is None or self._process.poll() is not None:
                    self._start()
                return self._exchange(request)
            finally:
                self._asked_at = time.monotonic()
                if self._process is not None and self._timer is None:
                    self._rest(self._idle)

    @property
    def pid(self) -> int | None:
        """Of the process, while there is one."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def stop(self) -> None:
        """End the process, if there is one. One that is asked again starts again."""
        with self._turn:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            self._end()

    def _start(self) -> None:
        self._end()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "modelworks.tuner"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            # Its sums are small: threads for them would only take memory.
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        )
        _log.info("tuner.started", extra={"pid": self._process.pid})
        try:
            self._exchange({"url": self._url})
        except ModelworksError:
            self._end()
            raise

    def _exchange(self, request: Mapping[str, Any]) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Timer(_PATIENCE, process.kill)
        late.daemon = True
        late.start()
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        finally:
            late.cancel()
        if not line.endswith("\n"):
            self._end()
            raise Unavailable("the process that chooses parameters died, and is started again", retry_after=1.0)
        answer: dict[str, Any] = json.loads(line)
        match answer.get("kind"):
            case None:
                return answer
            case "missing":
                self._end()
                raise SetupFailed(f"{MISSING}: {answer['error']}", remedy=REMEDY)
            case "unavailable":
                raise Unavailable(f"the study cannot be read now: {answer['error']}", retry_after=1.0)
            case _:
                raise ModelworksError(f"the study cannot go on: {answer['error']}")

    def _rest(self, seconds: float) -> None:
        self._timer = threading.Timer(seconds, self._look)
        self._timer.daemon = True
        self._timer.start()

    def _look(self) -> None:
        with self._turn:
            self._timer = None
            left = self._asked_at + self._idle - time.monotonic()
            if left > 0 and self._process is not None:
                self._rest(left)
            else:
                self._end()

    def _end(self) -> None:
        """The end of its input ends it; what does not end is killed."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(OSError):
            if process.stdin is not None:
                process.stdin.close()
        try:
            process.wait(_ENDING)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None:
            process.stdout.close()


def tune(tuner: Tuner, engine: Engine, resource: Resource, action: TuneTrials) -> None:
    """Tell and ask the sweep's study, then keep what came of it: repeated, it finds what the first time did."""
    heeded = action.study["algorithm"]["name"] == "asha"  # nothing else asks what is reported on the way
    if not (action.results or action.wishes or (heeded and action.reports)):
        with engine.begin() as connection:
            trials.report(connection, resource.uid, action.reports, ())
        return
    answer = tuner.ask(
        {
            "study": {"name": resource.uid, **action.study},
            "results": [
                {"number": result.number, "state": result.state, "value": result.value} for result in action.results
            ],
            "reports": [
                {"number": one.number, "step": one.step, "value": one.value} for one in action.reports if heeded
            ],
            "ask": [
                {"number": wish.number, **({"fixed": dict(wish.fixed)} if wish.fixed is not None else {})}
                for wish in action.wishes
            ],
        }
    )
    with engine.begin() as connection:
        _keep(connection, resource.uid, action, answer)


def _keep(connection: Connection, uid: str, action: TuneTrials, answer: Mapping[str, Any]) -> None:
    trials.report(connection, uid, action.reports, answer["prune"])
    trials.end(connection, uid, action.results)
    for one in answer["asked"]:
        trials.add(connection, uid, one["number"], one["parameters"])


def drop(tuner: Tuner, resource: Resource) -> str:
    """Remove the sweep's study; what could not be done, for people, when Optuna is gone by now."""
    try:
        tuner.ask({"drop": resource.uid})
    except SetupFailed as error:
        return f"its study stays in the database: {error.detail}"
    return ""
