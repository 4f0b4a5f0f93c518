"""A platform of a test module's own, driven by `mw` as a user does it."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from tests import engines

from modelworks.cli import app
from modelworks.home import Home

MW = (sys.executable, "-P", "-c", "from modelworks.cli.app import main; main()")
_PROCESSES = ("up", "down", "status")  # they replace the process that runs them


@dataclass(frozen=True)
class Mw:
    """`mw` with a home of its own and free ports."""

    home: Home

    @property
    def environment(self) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith("MW_") or name == "MW_CONSTRAINTS"
        }
        own = {"MW_HOME": str(self.home.root), "MW_PORT": "0", "MW_S3_PORT": "0", "COLUMNS": "80"}
        return {**kept, **own, "XDG_CONFIG_HOME": str(self.home.root / "config")}

    def __call__(
        self, *arguments: str, stdin: str | None = None, cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        if arguments[0] in _PROCESSES or "--local" in arguments:
            return self.process(*arguments, cwd=cwd)
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
        with (
            mock.patch.dict(os.environ, self.environment, clear=True),
            mock.patch.object(sys, "stdin", io.StringIO(stdin or "")),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            contextlib.chdir(cwd or Path.cwd()),
        ):
            code = app.run(arguments)
        texts = [stream.buffer.getvalue().decode() for stream in (out, err)]
        return subprocess.CompletedProcess(list(arguments), code, *texts)

    def process(self, *arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """As a process of its own; the others run in this one, which is quicker by a second each."""
        return subprocess.run(
            [*MW, *arguments], env=self.environment, capture_output=True, text=True, cwd=cwd, timeout=170, check=False
        )

    def ok(self, *arguments: str, stdin: str | None = None, cwd: Path | None = None) -> str:
        """Its output; the test fails when it does."""
        done = self(*arguments, stdin=stdin, cwd=cwd)
        assert done.returncode == 0, f"mw {' '.join(arguments)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@contextmanager
def fresh(up: bool = True) -> Iterator[Mw]:
    """A home that is down and gone afterwards."""
    with engines.temporary_home() as home:
        mw = Mw(home)
        try:
            if up:
                mw.ok("up", "--detach")
            yield mw
        finally:
            mw("down", "--grace", "2")
