"""Known answers after gold items, and results of trials."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from labeling_app.campaigns.campaigns import Rules, import_gold, set_rules
from labeling_app.store.store import Store
from labeling_app.store.tables import User
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import skip, submit
from labeling_app.tasks.feedback import TrialResult, after_answer, trial_results

KNOWN = [4, 3, 2, 1]


@pytest.fixture
def store(sqlite_file: Path) -> Iterator[Store]:
    with Store(sqlite_file) as opened:
        yield opened


@pytest.fixture
def with_gold(filled: Store, candidates: Path, tmp_path: Path) -> Store:
    """The campaign `main` with gold items of the videos of its first three tasks."""
    rows = [json.loads(line) for line in (candidates / "metadata.jsonl").read_text().splitlines()]
    videos = [str(candidates / row["file_name"]) for row in rows]
    known = [
        {"prompt": "known", "videos": videos[4 * number : 4 * number + 4], "ranks": KNOWN}
        for number in range(3)
    ]
    path = tmp_path / "known.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in known))
    import_gold(filled, path, "main")
    return filled


def answer(store: Store, user: User, ranks: list[int], draw: float = 0.0) -> dict[str, Any]:
    """Answers the next task, with ranks in the task's order; returns what is shown after it, and how it was shown."""
    task = assignment.next_task(store, user, draw=lambda: draw)
    assert task is not None
    shown = [ranks[position] for position in task.permutation]
    submit(store, user, task.assignment, {"overall": shown}, 1.0)
    return {**after_answer(store, user, task.assignment), "order": task.permutation}


def test_the_known_answer_is_shown_in_the_order_in_which_the_videos_were(with_gold: Store) -> None:
    set_rules(with_gold, "main", Rules(gold_share=0.5, gold_feedback=True))
    ada = with_gold.add_user("ada")
    after = answer(with_gold, ada, [4, 3, 1, 2])
    known = {"overall": [KNOWN[position] for position in after["order"]]}
    assert after["feedback"] == {"right": 5, "pairs": 6, "known": known}
    assert "trial" not in after
    assert set(answer(with_gold, ada, KNOWN, draw=0.9)) == {"order"}  # an ordinary task


def test_nothing_tells_a_gold_item_where_feedback_is_not_asked_for(with_gold: Store) -> None:
    set_rules(with_gold, "main", Rules(gold_share=0.5))
    ada = with_gold.add_user("ada")
    assert set(answer(with_gold, ada, KNOWN)) == {"order"}
    assert trial_results(with_gold, ada) == []


def test_the_result_of_a_trial_is_shown_once_it_is_over(with_gold: Store) -> None:
    set_rules(with_gold, "main", Rules(gold_share=0.5, quiz_size=2, quiz_pass=0.7))
    ada, bob = with_gold.add_user("ada"), with_gold.add_user("bob")
    assert set(answer(with_gold, ada, KNOWN)) == {"order"}
    assert trial_results(with_gold, ada) == []
    after = answer(with_gold, ada, [4, 3, 1, 2])
    result = TrialResult("main", right=11, pairs=12, needed=0.7, passed=True)
    assert after["trial"] == vars(result)
    assert "trial" not in answer(with_gold, ada, KNOWN)  # the third gold item is no part of it
    assert trial_results(with_gold, ada) == [result]
    answer(with_gold, bob, [1, 2, 3, 4])
    task = assignment.next_task(with_gold, bob)
    assert task is not None
    skip(with_gold, bob, task.assignment, "odd", 1.0)
    assert after_answer(with_gold, bob, task.assignment)["trial"]["passed"] is False
    assert trial_results(with_gold, bob) == [TrialResult("main", 0, 12, 0.7, False)]
    assert "0 of 12 pairs" in assignment.next_with_progress(with_gold, bob).reason
