"""Results over a whole large campaign, which take long: made in the background, shown while made anew, and kept.

They are kept in the memory of the process and in the database, so that a server that has just started shows the last
ones. A result is never older than it says: whenever the data have changed since, asking for it has it made anew.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from sqlalchemy.exc import SQLAlchemyError

from generator.output import InputError

logger = logging.getLogger(__name__)

T = TypeVar("T")
Report = Callable[[float], None]
"""Takes the share of a result that is made, from 0 to 1."""
RENEWED_AFTER_SECONDS = 0.3
"""Time in which what is shown meanwhile is sent, before a new result takes the processor."""
OLDEST_SECONDS = 60.0
"""Age at which a kept result is made anew although nothing has changed in the database: files may have."""


class StillComputing(Exception):
    """A result is being made for the first time.

    Attributes:
        share: of it that is made, from 0 to 1.
    """

    def __init__(self, share: float) -> None:
        super().__init__(f"This is being computed for the first time; {share:.0%} is done.")
        self.share = share


@dataclass(frozen=True)
class Computation(Generic[T]):
    """A way to make a result, and to write it down.

    Attributes:
        make: makes it, and says how far it is.
        encode, decode: a text of the result, and the result of such a text.
    """

    make: Callable[[Report], T]
    encode: Callable[[T], str] = json.dumps
    decode: Callable[[str], T] = json.loads


@dataclass(frozen=True)
class Kept:
    """A result as the database keeps it.

    Attributes:
        age: seconds since it was made.
    """

    revision: str
    text: str
    age: float


@dataclass
class _Result:
    revision: str
    value: Any
    made_at: float
    renewing: bool = False


@dataclass
class _Making:
    """A result that is being made; `failed` is the reason where it cannot be."""

    share: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)
    result: _Result | None = None
    failed: Exception | None = None


class ComputedResults:
    """Results by key.

    When the data have changed, a result is returned once more while the new one is made.

    Args:
        clock: seconds, for the age of results.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._kept: dict[Hashable, _Result] = {}
        self._making: dict[Hashable, _Making] = {}
        self._lock = threading.Lock()

    def get(
        self,
        key: Hashable,
        revision: str,
        how: Computation[T],
        patience: float | None = None,
        load: Callable[[], Kept | None] = lambda: None,
        save: Callable[[str, str], None] = lambda revision, text: None,
    ) -> T:
        """The result of now or of a moment ago.

        Args:
            key: names the result.
            revision: changes whenever the data do that the result is made of.
            patience: seconds to wait for a result that is made for the first time; None waits for it.
            load: the result that another process, or this one before it was started again, has kept.
            save: keeps the text of a result of a revision.

        Raises:
            StillComputing: it is being made for the first time.
        """
        found = self._kept.get(key) or self._loaded(key, how, load)
        if found is None:
            making = self._begin(key, revision, how, save)
            if not making.ended.wait(patience):
                raise StillComputing(making.share)
            if making.failed is not None:
                raise making.failed
            assert making.result is not None
            found = making.result
        if not self._is_new(found, revision):
            with self._lock:
                begins, found.renewing = not found.renewing, True
            if begins:
                self._begin(key, revision, how, save, after=RENEWED_AFTER_SECONDS)
        return cast(T, found.value)

    def _is_new(self, found: _Result, revision: str) -> bool:
        return found.revision == revision and self.clock() - found.made_at < OLDEST_SECONDS

    def _loaded(
        self, key: Hashable, how: Computation[Any], load: Callable[[], Kept | None]
    ) -> _Result | None:
        kept = load()
        if kept is None:
            return None
        try:
            value = how.decode(kept.text)
        except (ValueError, TypeError, KeyError) as error:
            # Another version of vidalign wrote it.
            logger.info("Not read: %s", error)
            return None
        with self._lock:
            return self._kept.setdefault(key, _Result(kept.revision, value, self.clock() - kept.age))

    def _begin(
        self,
        key: Hashable,
        revision: str,
        how: Computation[Any],
        save: Callable[[str, str], None],
        after: float = 0.0,
    ) -> _Making:
        """Makes a result in a thread of its own; of several who ask for the same, one makes it."""
        with self._lock:
            if (making := self._making.get(key)) is not None:
                return making
            making = self._making[key] = _Making()
        work = threading.Thread(
            target=self._make, args=(key, revision, how, save, making, after), daemon=True
        )
        work.start()
        return making

    def _make(
        self,
        key: Hashable,
        revision: str,
        how: Computation[Any],
        save: Callable[[str, str], None],
        making: _Making,
        after: float,
    ) -> None:
        time.sleep(after)

        def report(share: float) -> None:
            making.share = share

        made_at = self.clock()
        try:
            value = how.make(report)
            making.result = self._kept[key] = _Result(revision, value, made_at)
        except Exception as error:  # raised again where the result is waited for
            # A campaign that was deleted meanwhile is asked for anew, and refused then.
            logger.info("Not made: %s", error)
            self._kept.pop(key, None)
            making.failed = error
        finally:
            with self._lock:
                self._making.pop(key, None)
            making.ended.set()
        if making.failed is None:
            try:
                save(revision, how.encode(value))
            except (SQLAlchemyError, InputError) as error:
                logger.warning("Not kept for the next start: %s", error)
