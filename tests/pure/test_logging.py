from __future__ import annotations

import json
import logging as stdlib
from collections.abc import Iterator

import pytest
import structlog

from modelworks import logging, structured


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root, ours = stdlib.getLogger(), stdlib.getLogger("modelworks")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_one_object_with_what_was_said(capsys: pytest.CaptureFixture[str]) -> None:
    logging.configure("gateway")
    stdlib.getLogger("modelworks.x").info("served %d", 3, extra={"route": "digits"})
    stdlib.getLogger("elsewhere").info("not for us")
    (line,) = lines(capsys)
    assert {k: line[k] for k in ("level", "process", "logger", "event", "route")} == {
        "level": "info",
        "process": "gateway",
        "logger": "modelworks.x",
        "event": "served 3",
        "route": "digits",
    }


def test_structlog_comes_out_the_same_way_with_its_exception(capsys: pytest.CaptureFixture[str]) -> None:
    structured.configure("controller")
    log = structlog.get_logger("modelworks.y")
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("pass failed", uid="u1")
    log.debug("too fine")
    (line,) = lines(capsys)
    assert (line["event"], line["uid"], line["level"]) == ("pass failed", "u1", "error")
    assert "ValueError: no" in str(line["exception"])
