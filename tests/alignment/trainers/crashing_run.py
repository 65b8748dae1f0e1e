"""Process that crashes; started by test_launching.py.

Arguments: `native`, in a thread that runs no Python, or `python`; a file that the first launch makes, after which no
other crashes, or `always`; and the folder that every launch writes.
"""

import ctypes
import os
import sys
import time
from pathlib import Path


def crash(where):
    """Reads at address 0."""
    if where == "python":
        ctypes.string_at(0)
    library = ctypes.CDLL(None)
    library.pthread_create(ctypes.byref(ctypes.c_ulong()), None, library.strlen, None)
    time.sleep(60)


def main():
    where, first, folder = sys.argv[1], *map(Path, sys.argv[2:])
    if os.environ["RANK"] == "0":
        crashes = str(first) == "always" or not first.exists()
        if str(first) != "always":
            first.touch()
        (folder / "written").write_text(f"{sorted(path.name for path in folder.iterdir())}")
        if crashes:
            (folder / "half").touch()
            crash(where)
    return 0
