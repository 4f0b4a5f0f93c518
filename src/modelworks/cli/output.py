"""What a command prints: tables for people, one JSON document or JSON lines for programs."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from modelworks.kernel.quantities import format_decimal, format_duration, format_money
from modelworks.kernel.rewrites import Rewrites
from modelworks.sdk.text import Utf8Writer

_ENDLESS = 100_000  # columns
_LEAST_QUANTITY, _LEAST_OF_A_UNIT = 0.0001, 0.01
_SMALLER = {"TiB": "GiB", "GiB": "MiB", "MiB": "KiB", "KiB": "B"}


class Output:
    """With ``as_json`` stdout holds JSON alone; what is for people then goes to stderr."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json

    def document(self, data: Any) -> None:
        """One JSON document."""
        sys.stdout.write(json.dumps(data, indent=2, default=str) + "\n")

    def line(self, data: Any) -> None:
        """One line of a stream of JSON documents."""
        sys.stdout.write(json.dumps(data, default=str, separators=(",", ":")) + "\n")
        sys.stdout.flush()

    def yaml(self, data: Any) -> None:
        sys.stdout.write(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))

    def say(self, text: str) -> None:
        """A sentence for people."""
        stream = sys.stderr if self.as_json else sys.stdout
        stream.write(text + "\n")
        stream.flush()

    def note(self, text: str) -> None:
        sys.stderr.write(f"note: {text}\n")
        sys.stderr.flush()

    def notes(self, texts: Iterable[Any]) -> None:
        for text in texts:
            self.note(str(text))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Sequence[str] = ()) -> None:
        """A table that fits the terminal; where there is none, a row is a line."""
        table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column, justify="right" if column in right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text("" if cell is None else str(cell)) for cell in row))
        stream = sys.stderr if self.as_json else sys.stdout
        width = None if stream.isatty() or os.environ.get("COLUMNS") else _ENDLESS
        Console(file=stream, width=width, soft_wrap=False).print(table)


@contextlib.contextmanager
def log_writer(out: Output) -> Iterator[Callable[[bytes], None]]:
    """Writes the pieces of a log to stdout as they come; with ``--json`` each of its lines is ``{"line": …}``."""
    if not out.as_json:
        yield Utf8Writer(sys.stdout)
        return
    rest = b""

    def write(chunk: bytes) -> None:
        nonlocal rest
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            out.line({"line": line.decode(errors="replace")})

    yield write
    if rest:
        write(b"\n")


@contextlib.contextmanager
def shown(write: Callable[[bytes], None], *, raw: bool = False, follow: bool) -> Iterator[Callable[[bytes], None]]:
    """Writes a log with its progress bars as lines; a follower sees at most one a second of each."""
    if raw:
        yield write
        return
    view = Rewrites(1.0 if follow else None)
    yield lambda chunk: write(view.feed(chunk, time.monotonic()))
    write(view.end())


def age(timestamp: Any, now: datetime | None = None) -> str:
    """How long ago an ISO timestamp was, such as ``5m``."""
    if not timestamp:
        return ""
    try:
        then = datetime.fromisoformat(str(timestamp).replace("Z", "+00:00"))
    except ValueError:
        return str(timestamp)
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    seconds = max(0.0, ((now or datetime.now(UTC)) - then).total_seconds())
    return format_duration(float(int(seconds)))


def money(amount: Any, currency: str = "") -> str:
    return f"{format_money(float(amount or 0))} {currency}".strip()


def quantity_hours(amount: Any, unit: str) -> str:
    """Units × hours, such as ``0.5 instance·h``. Of a unit of bytes the one that fits: 0.0002 GiB is 0.2048 MiB."""
    value = float(amount or 0)
    while 0 < value < _LEAST_OF_A_UNIT and unit in _SMALLER:
        value, unit = value * 1024, _SMALLER[unit]
    text = f"<{_LEAST_QUANTITY}" if 0 < value < _LEAST_QUANTITY else format_decimal(round(Decimal(value), 4))
    return f"{text} {unit}·h"
