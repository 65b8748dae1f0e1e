"""Passwords and the throttle on guessing them."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable

SCRYPT_COST, SCRYPT_BLOCK, SCRYPT_PARALLEL = 2**14, 8, 1
MINIMUM_PASSWORD_LENGTH = 8
MAXIMUM_PASSWORD_LENGTH = 1024


def hash_password(password: str, salt: bytes | None = None) -> str:
    """`scrypt$cost$block$parallel$salt$hash` of a password, with a fresh salt unless one is given."""
    salt = secrets.token_bytes(16) if salt is None else salt
    digest = hashlib.scrypt(
        password.encode(), salt=salt, n=SCRYPT_COST, r=SCRYPT_BLOCK, p=SCRYPT_PARALLEL, dklen=32
    )
    return f"scrypt${SCRYPT_COST}${SCRYPT_BLOCK}${SCRYPT_PARALLEL}${salt.hex()}${digest.hex()}"


def verify_password(password: str, password_hash: str) -> bool:
    """Whether the password has this hash. Takes as long for a user without a password as for one with."""
    known = password_hash.startswith("scrypt$")
    stored = password_hash if known else _UNKNOWN
    _, cost, block, parallel, salt, digest = stored.split("$")
    given = hashlib.scrypt(
        password[:MAXIMUM_PASSWORD_LENGTH].encode(errors="replace"),
        salt=bytes.fromhex(salt),
        n=int(cost),
        r=int(block),
        p=int(parallel),
        dklen=len(digest) // 2,
    )
    return hmac.compare_digest(given, bytes.fromhex(digest)) and known


_UNKNOWN = f"scrypt${SCRYPT_COST}${SCRYPT_BLOCK}${SCRYPT_PARALLEL}${'00' * 16}${'00' * 32}"


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
