"""Bytecode of an environment. Runs see it read-only and could not keep what they compile, each would do it again.

It takes longer than unpacking the packages, so it goes on beside the first runs, at the lowest priority.
"""

from __future__ import annotations

import logging
import subprocess
import threading
from pathlib import Path

from modelworks.runtime.rundir import write_file

_log = logging.getLogger(__name__)

# Without `site`, whose .pth files are code of the packages; ends with the thread that waits for it.
_PROGRAM = """
import ctypes, os, re, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
os.nice(19)
os.umask(0o022)
import compileall
compileall.compile_dir(sys.argv[1], quiet=2, rx=re.compile("/tests?/"))
"""


class Compiler:
    """Compiles environments one after another, each once; ``.compiled`` in its folder says that it is done."""

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._asked: set[Path] = set()

    def begin(self, folder: Path) -> None:
        """Compile ``folder`` beside whatever comes next. Only for wheels that were unpacked: they hold no links."""
        if folder in self._asked or (folder / ".compiled").exists():
            return
        self._asked.add(folder)
        threading.Thread(target=self._compile, args=(folder,), name="compile", daemon=True).start()

    def _compile(self, folder: Path) -> None:
        with self._one_at_a_time:
            done = subprocess.run(
                [str(folder / "bin" / "python"), "-I", "-S", "-c", _PROGRAM, str(folder / "lib")],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                check=False,
            )
        if done.returncode == 0 and folder.exists():
            write_file(folder / ".compiled", b"", 0o644)
        elif folder.exists():
            _log.warning("environment.not_compiled", extra={"folder": str(folder), "error": done.stderr[-500:]})
