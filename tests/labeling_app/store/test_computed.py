"""Results that take long are kept, and never older than they say."""

from __future__ import annotations

import threading
import time

import pytest

from labeling_app.store import computed
from labeling_app.store.computed import ComputedResults


def test_a_fast_result_is_always_that_of_the_data_as_they_are() -> None:
    results, made = ComputedResults(), []

    def make() -> int:
        made.append(len(made))
        return made[-1]

    assert [results.get("k", revision, make) for revision in (1, 1, 2, 2, 1)] == [0, 0, 1, 1, 2]
    assert results.get("other", 1, make) == 3


def test_a_slow_result_is_shown_once_more_while_the_new_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(computed, "FAST_SECONDS", -1.0)
    results, going, made = ComputedResults(), threading.Event(), []

    def make(value: str) -> str:
        going.wait(5)
        made.append(value)
        return value

    going.set()
    assert results.get("k", 1, lambda: make("old")) == "old"
    going.clear()
    assert [results.get("k", 2, lambda: make("new")) for _ in range(3)] == ["old"] * 3
    going.set()
    for _ in range(200):
        if results.get("k", 2, lambda: make("newest")) == "new":
            break
        time.sleep(0.01)
    assert made == ["old", "new"]  # asked for four times and more, made once


def test_a_result_is_made_anew_after_a_minute_although_the_database_is_the_same() -> None:
    now = [0.0]
    results = ComputedResults(clock=lambda: now[0])
    assert results.get("k", 1, lambda: "first") == "first"
    now[0] = 59.0
    assert results.get("k", 1, lambda: "second") == "first"
    now[0] = 61.0
    assert results.get("k", 1, lambda: "second") == "second"


def test_a_result_that_cannot_be_made_is_not_kept() -> None:
    results = ComputedResults()
    with pytest.raises(ZeroDivisionError):
        results.get("k", 1, lambda: 1 // 0)
    assert results.get("k", 1, lambda: 5) == 5
