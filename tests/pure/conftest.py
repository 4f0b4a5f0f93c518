"""Pure tests touch nothing: opening a socket, starting a process or sleeping fails the test."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from typing import Any, NoReturn

import pytest


@pytest.fixture(autouse=True)
def _nothing_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(what: str) -> Any:
        def refused(*_: object, **__: object) -> NoReturn:
            raise AssertionError(f"a pure test must not use {what}")

        return refused

    monkeypatch.setattr(socket.socket, "connect", refuse("sockets"))
    monkeypatch.setattr(socket.socket, "bind", refuse("sockets"))
    monkeypatch.setattr(subprocess.Popen, "__init__", refuse("processes"))
    monkeypatch.setattr(os, "fork", refuse("processes"))
    monkeypatch.setattr(os, "system", refuse("processes"))
    monkeypatch.setattr(time, "sleep", refuse("time.sleep"))
