"""Throttle on guessing passwords."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class LoginThrottle:
    """Makes each further failed login of a name or an address wait longer.

    The first `free_attempts` failures cost nothing; the next ones close the door for 2, 4, 8, … seconds, up
    to `longest_wait`. Failures are forgotten after `memory` seconds without one. It lives in this process.
    """

    def __init__(
        self,
        free_attempts: int = 5,
        longest_wait: float = 900.0,
        memory: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.free_attempts = free_attempts
        self.longest_wait = longest_wait
        self.memory = memory
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def wait(self, *keys: str) -> float:
        """Seconds until the next attempt of all of `keys` is allowed; 0 when it is allowed now."""
        now = self._clock()
        with self._lock:
            return max((self._wait(key, now) for key in keys), default=0.0)

    def _wait(self, key: str, now: float) -> float:
        count, last = self._failures.get(key, (0, now))
        over = count - self.free_attempts
        if over < 0:
            return 0.0
        return max(0.0, last + min(2.0 ** (over + 1), self.longest_wait) - now)

    def failed(self, *keys: str) -> None:
        """Counts a failed attempt."""
        now = self._clock()
        with self._lock:
            if len(self._failures) > 10_000:
                self._failures = {
                    key: (count, last)
                    for key, (count, last) in self._failures.items()
                    if now - last < self.memory
                }
            for key in keys:
                count, last = self._failures.get(key, (0, now))
                self._failures[key] = (1 if now - last > self.memory else count + 1, now)

    def succeeded(self, *keys: str) -> None:
        """Forgets the failures."""
        with self._lock:
            for key in keys:
                self._failures.pop(key, None)
