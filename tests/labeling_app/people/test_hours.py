"""Active time from the times of answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from labeling_app.files.candidates import import_tasks
from labeling_app.people.hours import active_seconds, people_hours
from labeling_app.store.store import Store
from labeling_app.tasks.answers import revise, skip, submit
from labeling_app.tasks.next_task import next_task

RANKS = {"visual": [1, 2, 3, 4], "overall": [1, 2, 3, 4]}


def test_active_seconds_are_gaps_up_to_a_break_and_measured_seconds_after_one() -> None:
    times = [1000.0, 1060.0, 1660.0, 2260.5, 9000.0, 9000.0]
    measured = [20.0, 999.0, 5.0, 30.0, 1e6, 7.0]
    assert active_seconds(times, measured) == [20.0, 60.0, 600.0, 30.0, 600.0, 0.0]
    assert active_seconds([], []) == []


def test_active_seconds_agree_with_the_union_of_intervals() -> None:
    """Each answer covers the time from the one before, or its own seconds; nothing is covered twice."""
    random = np.random.default_rng(0)
    times = np.cumsum(random.exponential(300.0, 200))
    measured = random.uniform(0.0, 100.0, 200)
    covered = 0.0
    for number, at in enumerate(times):
        long_ago = number == 0 or at - times[number - 1] > 600.0
        begin = at - min(measured[number], 600.0) if long_ago else times[number - 1]
        covered += at - begin
    assert sum(active_seconds(list(times), list(measured))) == pytest.approx(covered, rel=1e-12)
    assert sum(active_seconds(list(times), list(measured))) <= times[-1] - times[0] + 600.0


def test_hours_count_an_answer_once_whatever_its_dimensions_and_a_change_by_itself(
    tmp_path: Path, candidates: Path, clock: Any
) -> None:
    with Store(tmp_path / "labels.db", clock=clock) as store:
        import_tasks(store, candidates, campaign="main", dimensions=["visual", "overall"])
        import_tasks(store, candidates, campaign="other", dimensions=["visual", "overall"])
        ada = store.add_user("ada", "correct horse")
        store.add_user("simulated-1", simulated=True)
        begin = clock.now
        first = next_task(store, ada, "main")
        assert first is not None
        submit(store, ada, first.assignment, RANKS, 40.0)
        clock.now = begin + 100.0
        second = next_task(store, ada, "other")
        assert second is not None
        skip(store, ada, second.assignment, "broken", 30.0)
        clock.now = begin + 5000.0
        revise(store, ada, first.assignment, RANKS, 55.0)  # 15 seconds more than the answer
        (person,) = people_hours(store)
        assert (person.name, person.answers, person.skips, person.changes) == ("ada", 1, 1, 1)
        assert person.seconds == 40.0 + 100.0 + 15.0
        assert person.last_at == clock.now
        assert sum(person.by_day.values()) == person.seconds
        assert people_hours(store, "main")[0].seconds == 55.0
        assert people_hours(store, since=begin + 1.0)[0].seconds == 115.0
        assert people_hours(store, until=begin + 100.0)[0].seconds == 40.0
