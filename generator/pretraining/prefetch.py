"""Items of a slow iterable for a consumer that has other work while the next one is not ready."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

MOST_REUSES = 4
"""Rounds of draws for each new item, at most."""


def when_ready(items: Iterable[Item], ahead: int = 4) -> Iterator[Item | None]:
    """Every item, in order, and None whenever the next one is not there yet; only the first is waited for.

    Args:
        items: read by a thread, which ends with them or when the iterator is closed.
        ahead: how many items may wait.

    Raises:
        Exception: what reading the items raised.
    """
    waiting: queue.Queue[tuple[str, Item | BaseException | None]] = queue.Queue(ahead)
    closed = threading.Event()

    def put(kind: str, value: Item | BaseException | None) -> None:
        while not closed.is_set():
            try:
                waiting.put((kind, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def read() -> None:
        try:
            for item in items:
                put("item", item)
                if closed.is_set():
                    return
            put("end", None)
        except BaseException as error:  # is raised where the items are used
            put("error", error)

    threading.Thread(target=read, daemon=True).start()
    first = True
    try:
        while True:
            try:
                kind, value = waiting.get(block=first)
            except queue.Empty:
                yield None
                continue
            first = False
            if kind == "error":
                assert isinstance(value, BaseException)
                raise value
            if kind == "end":
                return
            yield value  # type: ignore[misc]
    finally:
        closed.set()


def rounds_of_draws(items: Iterable[Item | None], start: int = 0) -> Iterator[tuple[int, Item | None]]:
    """Numbers of rounds of draws from what is kept, each with the new item that is kept from then on, or None.

    Between two new items there are at most `MOST_REUSES` - 1 rounds more, while the next one is not ready.

    Args:
        items: as `when_ready` gives them, or all of them at once.
        start: number of the first round.
    """
    rounds = 0
    for index, item in enumerate(items, start=start):
        rounds = 1 if item is not None else rounds + 1
        if rounds > MOST_REUSES:
            time.sleep(0.001)
            continue
        yield index, item
