"""Ctrl-C and signals that end a process: work that can be saved is saved first.

The first SIGINT (Ctrl-C), SIGTERM or SIGHUP asks the work to stop at its next good moment; a second Ctrl-C stops it at
once. Under `--accelerate_config` the launching process asks its workers through files in a folder that they share.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
LAUNCH_FOLDER = "VIDALIGN_LAUNCH_FOLDER"
"""Environment variable with the folder through which a launching process and its workers speak."""
WORKING, STOP, STOPPED, BEGUN = "working", "stop", "stopped", "begun"
SAME_SECONDS = 0.1
"""Signals that follow each other faster are one, which a terminal and a program between both passed on."""


class Interrupted(KeyboardInterrupt):
    """Work was stopped from outside.

    Attributes:
        code: the exit code of a process that ends with it.
        saved: where what was done so far lies, if it was saved.
        begun: whether the work, of other processes that were waited for, had begun.
    """

    def __init__(
        self, message: str = "", code: int = 130, saved: Path | None = None, begun: bool = False
    ) -> None:
        super().__init__(message)
        self.code = code
        self.saved = saved
        self.begun = begun


class StopRequest:
    """Returns whether somebody has asked the work to stop.

    Attributes:
        code: the exit code that fits what asked.
    """

    def __init__(self, promise: str) -> None:
        self.promise = promise
        self.code = 130
        self._since: float | None = None
        folder = os.environ.get(LAUNCH_FOLDER)
        self.folder = Path(folder) if folder else None

    def __bool__(self) -> bool:
        return self._since is not None or self._is_asked_by_launcher()

    def _is_asked_by_launcher(self) -> bool:
        return self.folder is not None and (self.folder / STOP).exists()

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """Handles a signal."""
        now = time.monotonic()
        if self._is_asked_by_launcher():
            if number == signal.SIGINT:
                raise Interrupted("stopped at once", self.code)
        elif self._since is None:
            self._since = now
            self.code = 128 + number
            if self.folder is None:
                say(f"\nvidalign: {self.promise} (Ctrl-C stops at once)\n")
        elif number == signal.SIGINT and now - self._since > SAME_SECONDS:
            raise Interrupted("stopped at once", self.code)


def say(text: str) -> None:
    """Writes to the terminal; safe inside a signal handler, unlike `print`."""
    with suppress(OSError):
        os.write(2, text.encode())


@contextmanager
def handling(handler: Any) -> Iterator[None]:
    """Lets `handler` receive the signals inside the block, if this is the main thread; ignored ones stay ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = {n: old for n, old in before.items() if old is not signal.SIG_IGN and old is not None}
    for number in taken:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in taken.items():
            signal.signal(number, old)


@contextmanager
def stoppable(promise: str) -> Iterator[StopRequest]:
    """A `StopRequest` that signals set inside the block.

    Args:
        promise: tells the user after the first signal when the work will stop.
    """
    request = StopRequest(promise)
    working = request.folder / WORKING if request.folder is not None else None
    if working is not None:
        working.touch()
    try:
        with handling(request.receive):
            yield request
    finally:
        if working is not None:
            working.unlink(missing_ok=True)


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Inside the block, SIGTERM and SIGHUP raise `Interrupted` as Ctrl-C raises `KeyboardInterrupt`, so that nothing is
    left half-done."""
    owner = os.getpid()

    def end(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        if os.getpid() != owner:  # a forked worker, which ends as if there were no handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        raise Interrupted(signal.strsignal(number) or "", 128 + number)

    with handling(end):
        yield
