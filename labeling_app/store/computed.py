"""Results over a whole large campaign, which take long: kept until the data change, and shown while made anew."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from sqlalchemy.exc import SQLAlchemyError

from generator.output import InputError

logger = logging.getLogger(__name__)

T = TypeVar("T")
OLDEST_SECONDS = 60.0
"""Age at which a kept result is made anew although nothing has changed in the database: files may have."""


@dataclass
class _Result:
    revision: Hashable
    value: Any
    made_at: float
    renewing: bool = False


class ComputedResults:
    """Results by key, in the memory of this process.

    When the data have changed, a result is returned once more while the new one is made.

    Args:
        clock: seconds, for the age of results.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._kept: dict[Hashable, _Result] = {}
        self._locks: dict[Hashable, threading.Lock] = {}
        self._lock = threading.Lock()

    def get(self, key: Hashable, revision: Hashable, compute: Callable[[], T]) -> T:
        """The result of `compute`, of now or of a moment ago.

        Args:
            key: names the result.
            revision: changes whenever the data do that the result is made of.
        """
        found = self._kept.get(key)
        if found is None:
            with self._lock:
                lock = self._locks.setdefault(key, threading.Lock())
            with lock:  # of several who ask for the same, one makes it
                found = self._kept.get(key) or self._make(key, revision, compute)
        if not self._is_new(found, revision):
            with self._lock:
                begins, found.renewing = not found.renewing, True
            if begins:
                threading.Thread(target=self._renew, args=(key, revision, compute), daemon=True).start()
        return cast(T, found.value)

    def _is_new(self, found: _Result, revision: Hashable) -> bool:
        return found.revision == revision and self.clock() - found.made_at < OLDEST_SECONDS

    def _make(self, key: Hashable, revision: Hashable, compute: Callable[[], Any]) -> _Result:
        made_at = self.clock()
        made = self._kept[key] = _Result(revision, compute(), made_at)
        return made

    def _renew(self, key: Hashable, revision: Hashable, compute: Callable[[], Any]) -> None:
        try:
            self._make(key, revision, compute)
        except (InputError, SQLAlchemyError) as error:
            # A campaign that was deleted meanwhile is asked for anew, and refused then.
            logger.info("Not made anew: %s", error)
            self._kept.pop(key, None)
