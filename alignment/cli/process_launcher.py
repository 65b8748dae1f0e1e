"""`accelerate launch` without a traceback of its own where a process has told what is wrong, or was killed.

Started by `alignment.cli.launcher`; takes the words of `accelerate launch`.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

ERROR_FILE = "VIDALIGN_ERROR_FILE"
"""Environment variable with the file in which a launched process tells of a mistake of the user."""


def is_told() -> bool:
    """Returns whether a process has told what is wrong."""
    file = os.environ.get(ERROR_FILE)
    return file is not None and Path(file).is_file()


def lost_processes(failures: dict[int, Any]) -> str:
    """One line for each process that a signal has ended, not counting those that the launcher itself ended."""
    ended = {rank: -each.exitcode for rank, each in failures.items() if each.exitcode < 0}
    lost = {rank: number for rank, number in ended.items() if number != signal.SIGTERM}
    return "".join(
        f"vidalign: process {rank} was ended by {signal.Signals(number).name}"
        + (" (out of memory?)" if number == signal.SIGKILL else "")
        + ": what is finished is kept; run the same command again.\n"
        for rank, number in sorted(lost.items())
    )


def main() -> int:
    """Runs `accelerate launch` and returns its exit code."""
    from accelerate.commands import launch

    logging.getLogger("torch.distributed.elastic.multiprocessing.api").addFilter(_untold)
    try:
        launch.main()
    except ChildFailedError as error:
        if is_told():
            return 1
        lost = lost_processes(error.failures)
        if not lost:
            raise
        sys.stderr.write(lost)
        return 1
    return 0


def _untold(record: logging.LogRecord) -> bool:
    """False for the launcher's own words about processes that end because of a mistake that is told."""
    return not is_told()


if __name__ == "__main__":
    sys.exit(main())
