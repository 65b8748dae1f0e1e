"""Items that come when they are ready."""

from __future__ import annotations

import threading
import time

import pytest

from generator.pretraining.prefetch import MOST_REUSES, rounds_of_draws, when_ready


def test_every_item_comes_once_in_order_and_none_while_the_next_is_not_ready():
    allowed = threading.Semaphore(1)

    def slow():
        for number in range(3):
            allowed.acquire()
            yield number

    found = when_ready(slow())
    assert next(found) == 0
    assert next(found) is None
    allowed.release()
    while (item := next(found)) is None:
        time.sleep(0.001)
    assert item == 1
    allowed.release()
    assert [item for item in found if item is not None] == [2]


def test_the_first_item_is_waited_for():
    def late():
        time.sleep(0.2)
        yield "first"

    assert next(when_ready(late())) == "first"


def test_an_error_of_the_source_is_raised_where_its_items_are_used():
    def broken():
        yield 1
        raise ValueError("no more scenes")

    found = when_ready(broken())
    assert next(found) == 1
    with pytest.raises(ValueError, match="no more scenes"):
        list(found)


def test_the_source_is_read_no_further_when_the_iterator_is_closed():
    taken = []

    def endless():
        number = 0
        while True:
            taken.append(number)
            yield number
            number += 1

    before = threading.active_count()
    found = when_ready(endless(), ahead=2)
    assert next(found) == 0
    found.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    assert len(taken) <= 5


def test_rounds_between_two_items_are_limited_and_counted_on() -> None:
    waiting = [None] * (2 * MOST_REUSES)
    found = list(rounds_of_draws(["a", *waiting, "b", None], start=10))
    assert [item for _, item in found] == ["a", *[None] * (MOST_REUSES - 1), "b", None]
    numbers = [number for number, _ in found]
    assert numbers == [10, *range(11, 10 + MOST_REUSES), 11 + len(waiting), 12 + len(waiting)]
