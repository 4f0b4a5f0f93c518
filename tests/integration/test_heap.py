"""Memory that bodies lay in is used again."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, resource
from modelworks.heap import keep_freed
if not hasattr(ctypes.CDLL(None), "mallopt"):
    print("none")
    raise SystemExit
keep_freed()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
body = bytes(1 << 20)
kept = [body + b"x" for _ in range(4)]
del kept
before = faults()
for _ in range(50):
    copies = [body + b"x" for _ in range(4)]
    del copies
print(faults() - before)
"""


def test_copies_of_large_bodies_do_not_fault_in_new_pages() -> None:
    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout.strip()
    if said == "none":
        pytest.skip("the C library is not glibc")
    assert int(said) < 50 * 4 * 256 / 10  # a tenth of the pages that were written
