"""Process that crashes in its first launch, or in all; started by test_launching.py.

Arguments: a file that the first launch makes, or `always`, and the folder that every launch writes.
"""

import ctypes
import os
import sys
from pathlib import Path


def main():
    first, folder = map(Path, sys.argv[1:])
    if os.environ["RANK"] == "0":
        always = str(first) == "always"
        crashes = always or not first.exists()
        if not always:
            first.touch()
        (folder / "written").write_text(f"{sorted(path.name for path in folder.iterdir())}")
        if crashes:
            (folder / "half").touch()
            ctypes.string_at(0)
    return 0
