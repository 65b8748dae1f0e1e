"""Results that take long are kept, and never older than they say."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from generator.output import InputError
from labeling_app.store import store as store_module
from labeling_app.store.computed import ComputedResults
from labeling_app.store.new_tasks import NewTask, VideoFile
from labeling_app.store.store import Store


def test_a_result_is_shown_once_more_while_the_new_one_is_made() -> None:
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


def test_a_kept_result_is_made_anew_after_a_minute_although_the_database_is_the_same() -> None:
    now = [0.0]
    results = ComputedResults(clock=lambda: now[0])
    assert results.get("k", 1, lambda: "first") == "first"
    now[0] = 59.0
    assert results.get("k", 1, lambda: "second") == "first"
    now[0] = 61.0
    assert results.get("k", 1, lambda: "second") == "first"
    for _ in range(200):
        if results.get("k", 1, lambda: "third") == "second":
            break
        time.sleep(0.01)
    assert results.get("k", 1, lambda: "third") == "second"


def test_a_result_that_cannot_be_made_is_not_kept() -> None:
    results = ComputedResults()
    with pytest.raises(ZeroDivisionError):
        results.get("k", 1, lambda: 1 // 0)
    assert results.get("k", 1, lambda: 5) == 5


def test_results_of_a_small_campaign_are_always_of_now_and_of_a_large_one_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store(tmp_path / "labels.db") as store:
        files = [VideoFile(Path(f"/v/{n}.mp4"), str(n) * 64, "video/mp4", 8.0, 8, 64, 64) for n in range(4)]
        store.add_tasks("main", [NewTask("first", tuple(files[:2]))])
        made: list[int] = []

        def asked() -> int:
            return store.computed("count", "main", lambda: made.append(len(made)) or made[-1])  # type: ignore[func-returns-value]

        assert [asked(), asked()] == [0, 1]
        monkeypatch.setattr(store_module, "SMALL_CAMPAIGN", 0)
        assert [asked(), asked()] == [2, 2]
        store.add_tasks("main", [NewTask("second", tuple(files[2:]))])
        for _ in range(200):
            if asked() == 3:
                break
            time.sleep(0.01)
        assert (asked(), made) == (3, [0, 1, 2, 3])
        with pytest.raises(InputError, match="no campaign"):
            store.computed("count", "none", lambda: 0)
