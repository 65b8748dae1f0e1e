"""Results that take long are kept, and never older than they say."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from generator.output import InputError
from labeling_app.campaigns.lifecycle import delete_campaign
from labeling_app.people.status import remove
from labeling_app.store import store as store_module
from labeling_app.store.computed import Computation, ComputedResults, Report, StillComputing
from labeling_app.store.new_tasks import NewTask, VideoFile
from labeling_app.store.store import Store
from labeling_app.store.tables import ComputedResult


def made(value: object) -> Computation[object]:
    return Computation(lambda report: value)


def until(holds: Callable[[], bool]) -> None:
    """Waits for something that another thread does."""
    for _ in range(500):
        if holds():
            return
        time.sleep(0.01)
    pytest.fail("It did not happen within five seconds.")


def test_a_result_is_shown_once_more_while_the_new_one_is_made() -> None:
    results, going, count = ComputedResults(), threading.Event(), []

    def make(value: str) -> Computation[str]:
        def made(report: Report) -> str:
            going.wait(5)
            count.append(value)
            return value

        return Computation(made)

    going.set()
    assert results.get("k", "1", make("old")) == "old"
    going.clear()
    assert [results.get("k", "2", make("new")) for _ in range(3)] == ["old"] * 3
    going.set()
    until(lambda: results.get("k", "2", make("newest")) == "new")
    assert count == ["old", "new"]  # asked for four times and more, made once


def test_a_kept_result_is_made_anew_after_a_minute_although_the_database_is_the_same() -> None:
    now = [0.0]
    results = ComputedResults(clock=lambda: now[0])
    assert results.get("k", "1", made("first")) == "first"
    now[0] = 59.0
    assert results.get("k", "1", made("second")) == "first"
    now[0] = 61.0
    assert results.get("k", "1", made("second")) == "first"
    until(lambda: results.get("k", "1", made("third")) == "second")
    assert results.get("k", "1", made("third")) == "second"


def test_a_result_that_cannot_be_made_is_not_kept() -> None:
    results = ComputedResults()
    with pytest.raises(ZeroDivisionError):
        results.get("k", "1", Computation(lambda report: 1 // 0))
    assert results.get("k", "1", made(5)) == 5


def test_who_does_not_wait_is_told_how_much_is_done() -> None:
    results, half, going = ComputedResults(), threading.Event(), threading.Event()

    def make(report: Report) -> str:
        report(0.5)
        half.set()
        going.wait(5)
        return "made"

    with pytest.raises(StillComputing):
        results.get("k", "1", Computation(make), patience=0.0)
    half.wait(5)
    with pytest.raises(StillComputing, match="50%") as told:
        results.get("k", "1", Computation(make), patience=0.0)
    assert told.value.share == 0.5
    going.set()
    assert results.get("k", "1", Computation(make)) == "made"
    assert results.get("k", "1", Computation(make), patience=0.0) == "made"


def add_task(store: Store, campaign: str, number: int) -> None:
    files = [VideoFile(Path(f"/v/{n}.mp4"), f"{n:064}", "video/mp4", 8.0, 8, 64, 64) for n in range(2)]
    store.add_tasks(campaign, [NewTask(f"prompt {number}", tuple(files))], copy=False)


def test_results_of_a_small_campaign_are_always_of_now_and_of_a_large_one_follow(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_task(store, "main", 1)
    count: list[int] = []

    def asked() -> int:
        return store.computed(
            "count", "main", Computation(lambda report: count.append(len(count)) or count[-1])
        )  # type: ignore[func-returns-value]

    assert [asked(), asked()] == [0, 1]
    monkeypatch.setattr(store_module, "SMALL_CAMPAIGN", 0)
    assert [asked(), asked()] == [2, 2]
    add_task(store, "main", 2)
    until(lambda: asked() == 3)
    assert (asked(), count) == (3, [0, 1, 2, 3])
    with pytest.raises(InputError, match="no campaign"):
        store.computed("count", "none", made(0))


def test_a_store_that_is_opened_again_shows_the_last_result_and_follows(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SMALL_CAMPAIGN", 0)
    add_task(store, "main", 1)
    assert store.computed("sum", "main", made({"a": [1.5, float("inf")]})) == {"a": [1.5, float("inf")]}

    def reopened(value: object, patience: float | None = 0.0) -> object:
        with Store(store.url) as again:
            return again.computed("sum", "main", made(value), patience)

    until(lambda: texts(store) != "")
    assert reopened("other") == {"a": [1.5, float("inf")]}  # nothing has changed: not made again
    with pytest.raises(StillComputing), Store(store.url) as again:
        again.computed("another", "main", Computation(lambda report: time.sleep(0.2)), 0.0)
    add_task(store, "main", 2)
    with Store(store.url) as again:
        assert again.computed("sum", "main", made("new"), 0.0) == {"a": [1.5, float("inf")]}
        until(lambda: again.computed("sum", "main", made("newest"), 0.0) == "new")
        until(lambda: "new" in texts(again))
    assert reopened("newest") == "new"


def texts(store: Store) -> str:
    """All that the database keeps of results."""
    with store.read() as session:
        return "".join(session.scalars(select(ComputedResult.value)))


def test_a_result_never_names_a_person_who_was_removed_and_goes_with_its_campaign(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SMALL_CAMPAIGN", 0)
    add_task(store, "main", 1)
    store.add_user("ada", "a long password")
    assert store.computed("names", "main", made(["ada"])) == ["ada"]
    until(lambda: "ada" in texts(store))
    remove(store, "ada")
    assert texts(store) == ""
    assert store.computed("names", "main", made(["removed"])) == ["removed"]
    until(lambda: "removed" in texts(store))
    delete_campaign(store, "main", "main")
    assert texts(store) == ""
    add_task(store, "main", 1)  # on SQLite it gets the id of the one before
    assert store.computed("names", "main", made([])) == []
