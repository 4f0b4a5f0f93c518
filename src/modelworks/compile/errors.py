"""What can go wrong with a model that is compiled, told in one line: the last line of a job's log is its message."""

from __future__ import annotations


class CompileError(Exception):
    """The model cannot be compiled as asked: ``detail`` is one line, ``remedy`` what to do about it."""

    def __init__(self, detail: str, remedy: str = "") -> None:
        super().__init__(f"{detail}; {remedy}" if remedy else detail)
        self.detail = detail
        self.remedy = remedy


def first_line(error: BaseException, limit: int = 300) -> str:
    """An exception as one line: libraries tell theirs over pages."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -=\t")]
    told = [line for line in lines if not line.startswith(("Exception from", "Check '"))] or lines
    listed = [line.removeprefix("-- ") for line in told if line.startswith("-- ")]  # OpenVINO's summary
    text = next(iter(listed or told), "")
    return f"{type(error).__name__}: {text[:limit]}" if text else type(error).__name__
