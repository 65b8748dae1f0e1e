"""What leads are shown of a large campaign: kept between starts of the server, and right after every change."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labeling_app.campaigns.campaigns import Rules, make_gold, set_rules
from labeling_app.campaigns.overview import campaign_quality
from labeling_app.people.status import deactivate, remove
from labeling_app.quality.adjudication import adjudicate, disagreements
from labeling_app.store import store as store_module
from labeling_app.store.computed import StillComputing
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import revise, skip, submit
from labeling_app.web.plots import plot


def answer(store: Store, name: str, ranks: list[int], flag: str = "") -> str:
    """Ranks the next task, in the task's own order; returns the assignment."""
    user = store.user(name)
    assert user is not None
    task = assignment.next_task(store, user)
    assert task is not None
    shown = [ranks[position] for position in task.permutation]
    submit(store, user, task.assignment, {"overall": shown}, 2.0, flag=flag)
    return task.assignment


def quality_now(store: Store, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Quality made of the database as it is."""
    with monkeypatch.context() as patched:
        patched.setattr(store_module, "SMALL_CAMPAIGN", 10**9)
        return comparable(campaign_quality(store, "main"))


def comparable(quality: dict[str, Any]) -> str:
    """As text, in which NaN is NaN; a tuple and a list are the same to pages."""
    return repr({**quality, "made_at": 0}).replace("(", "[").replace(",)", ")").replace(")", "]")


def follows(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits until a server's result, and that of one that is started now, are those of the database."""
    expected = quality_now(store, monkeypatch)
    for opened in (store, Store(store.url)):
        for _ in range(500):
            if comparable(campaign_quality(opened, "main")) == expected:
                break
            time.sleep(0.01)
        assert comparable(campaign_quality(opened, "main")) == expected
    opened.close()


def test_quality_of_a_large_campaign_is_right_after_every_kind_of_change(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "SMALL_CAMPAIGN", 0)
    for name in ("ada", "bob", "eve"):
        filled.add_user(name, "a long password")
    lead = filled.add_user("lea", "a long password", role="lead")
    seen: list[str] = []

    def changed(change: Callable[[], object]) -> None:
        change()
        follows(filled, monkeypatch)
        seen.append(comparable(campaign_quality(filled, "main")))

    for name in ("ada", "bob"):
        changed(lambda name=name: answer(filled, name, [1, 2, 3, 4]))  # type: ignore[misc]
    given = answer(filled, "ada", [1, 2, 3, 4])
    changed(lambda: answer(filled, "bob", [4, 3, 2, 1], flag="broken"))
    assert [found.remarks[0].text for found in disagreements(filled, "main")] == ["broken"]
    ada, bob = filled.user("ada"), filled.user("bob")
    assert ada is not None
    assert bob is not None
    changed(lambda: revise(filled, ada, given, {"overall": [1, 1, 1, 1]}, 3.0))
    task = assignment.next_task(filled, bob)
    assert task is not None
    changed(lambda: skip(filled, bob, task.assignment, "Video A is broken", 1.0))
    changed(lambda: answer(filled, "eve", [1, 2, 3, 4]))
    first = filled.tasks("main")[0].id
    set_rules(filled, "main", Rules(gold_share=0.5))
    make_gold(filled, first, {"overall": [4, 3, 2, 1]})
    eve = filled.user("eve")
    assert eve is not None
    gold = assignment.next_task(filled, eve, draw=lambda: 0.0)
    assert gold is not None
    changed(lambda: submit(filled, eve, gold.assignment, {"overall": [1, 2, 3, 4]}, 1.0))
    changed(lambda: adjudicate(filled, lead, first, {"overall": [1, 2, 3, 4]}))
    before = seen[-1]
    changed(lambda: deactivate(filled, "bob"))
    assert seen[-1] == before  # answers stay, and count
    changed(lambda: remove(filled, "bob"))
    assert "'bob'" in before
    assert "'bob'" not in seen[-1]
    assert len(set(seen)) == len(seen) - 2  # a decision changes no figure either


def test_a_started_server_shows_what_was_kept_at_once(
    filled: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(store_module, "SMALL_CAMPAIGN", 0)
    for name in ("ada", "bob"):
        filled.add_user(name, "a long password")
    answer(filled, "ada", [1, 2, 3, 4], flag="odd")
    answer(filled, "bob", [4, 3, 2, 1])
    with pytest.raises(StillComputing):
        campaign_quality(filled, "main", patience=0.0)
    quality = comparable(campaign_quality(filled, "main"))
    worst, drawn = disagreements(filled, "main"), plot(filled, "main", "days")
    with Store(filled.url) as again:
        for _ in range(500):
            try:
                found = campaign_quality(again, "main", patience=0.0)
                if found["changed_files"] is not None:
                    break
            except StillComputing:
                pass
            time.sleep(0.01)
        assert comparable(found) == quality

        def never(*_: object) -> Any:
            raise AssertionError("It was read from the database a moment ago.")

        monkeypatch.setattr(again, "judgements", never)
        read = disagreements(again, "main", patience=0.0)
        assert [(d.task.id, d.share, d.answers, d.remarks, d.tags) for d in read] == [
            (d.task.id, d.share, d.answers, d.remarks, d.tags) for d in worst
        ]
        assert plot(again, "main", "days") == drawn
