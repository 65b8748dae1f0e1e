"""Giving out tasks and taking answers."""

from __future__ import annotations

import multiprocessing
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from labeling_app.files.candidates import import_tasks
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import dense_ranks, recent_answers, revise, skip, submit
from labeling_app.tasks.lease import AlreadyAnswered, LeaseExpired, Refused
from labeling_app.tasks.progress import Progress, progress

RANKS = {"overall": [1, 2, 3, 4]}


@pytest.fixture
def timed(database: str, candidates: Path, clock: Any) -> Iterator[Store]:
    """A store with one annotator a task and a clock that tests turn."""
    with Store(database, lease_seconds=600.0, edit_seconds=3600.0, clock=clock) as store:
        import_tasks(store, candidates, campaign="main", overlap=1)
        yield store


def work(database: str, name: str) -> list[int]:
    """Ranks everything that this annotator gets; returns the tasks."""
    store = Store(database)
    user = store.user(name)
    assert user is not None
    tasks = []
    while (task := assignment.next_task(store, user)) is not None:
        submit(store, user, task.assignment, RANKS, 1.0)
        tasks.append(task.task)
    store.close()
    return tasks


def check_overlap(store: Store, overlap: int, everything: list[list[int]]) -> None:
    for tasks in everything:
        assert len(tasks) == len(set(tasks))
    counts = Counter(task for tasks in everything for task in tasks)
    assert set(counts.values()) == {overlap}
    assert len(counts) == 12
    judgements = store.judgements("main", all_versions=True)
    assert Counter(judgement.task_id for judgement in judgements) == counts
    assert [task.completed for task in store.tasks("main")] == [overlap] * 12


def test_sixteen_threads_never_exceed_the_overlap(store: Store, candidates: Path) -> None:
    import_tasks(store, candidates, campaign="main", overlap=5)
    names = [store.add_user(f"annotator-{number}").name for number in range(16)]
    with ThreadPoolExecutor(16) as pool:
        everything = list(pool.map(lambda name: work(store.url, name), names))
    check_overlap(store, 5, everything)


@pytest.fixture(scope="module")
def processes() -> Iterator[Any]:
    """Three processes, most of whose time goes to imports."""
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        yield pool


def test_several_processes_never_exceed_the_overlap(store: Store, candidates: Path, processes: Any) -> None:
    import_tasks(store, candidates, campaign="main", overlap=3)
    names = [store.add_user(f"annotator-{number}").name for number in range(6)]
    everything = processes.starmap(work, [(store.url, name) for name in names])
    check_overlap(store, 3, everything)


def test_one_person_in_many_windows_gets_one_task_and_one_answer(filled: Store) -> None:
    ada = filled.add_user("ada")
    with ThreadPoolExecutor(8) as pool:
        tasks = list(pool.map(lambda _: assignment.next_task(filled, ada), range(8)))
    assert len({task.assignment for task in tasks if task}) == 1

    def answer(_: int) -> bool:
        try:
            submit(filled, ada, tasks[0].assignment, RANKS, 1.0)  # type: ignore[union-attr]
        except AlreadyAnswered:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(answer, range(8))) == 1
    assert len(filled.judgements("main", all_versions=True)) == 1


def test_a_reload_brings_the_same_task_in_the_same_order(filled: Store) -> None:
    ada = filled.add_user("ada")
    first, again = assignment.next_task(filled, ada), assignment.next_task(filled, ada)
    assert first is not None
    assert again is not None
    assert (first.task, first.permutation) == (again.task, again.permutation)
    assert [video.id for video in first.videos] == [video.id for video in again.videos]


def test_work_that_was_begun_comes_before_new_work_of_an_older_campaign(
    store: Store, candidates: Path
) -> None:
    for campaign in ("older", "newer"):
        import_tasks(store, candidates, campaign=campaign)
    ada = store.add_user("ada")
    begun = assignment.next_task(store, ada, "newer")
    resumed = assignment.next_task(store, ada)
    assert begun is not None
    assert resumed is not None
    assert resumed.assignment == begun.assignment


def test_orders_differ_between_annotators_and_ranks_are_stored_in_the_tasks_order(filled: Store) -> None:
    orders = set()
    for number in range(2):
        user = filled.add_user(f"annotator-{number}")
        for _ in range(12):
            task = assignment.next_task(filled, user)
            assert task is not None
            orders.add(task.permutation)
            # Ranks by position in the task: position p gets rank p + 1.
            submit(filled, user, task.assignment, {"overall": [p + 1 for p in task.permutation]}, 1.0)
    assert len(orders) > 5
    assert all(judgement.ranks == [1, 2, 3, 4] for judgement in filled.judgements("main"))


def test_a_task_whose_lease_ran_out_goes_to_somebody_else(timed: Store, clock: Any) -> None:
    ada, bob = timed.add_user("ada"), timed.add_user("bob")
    hers, his = assignment.next_task(timed, ada), assignment.next_task(timed, bob)
    assert hers is not None
    assert his is not None
    assert hers.task != his.task
    clock.now += 500
    assignment.renew(timed, bob, his.assignment)
    clock.now += 200
    same = assignment.next_task(timed, bob)
    assert same is not None
    assert same.assignment == his.assignment
    with pytest.raises(LeaseExpired, match="ran out"):
        submit(timed, ada, hers.assignment, RANKS, 1.0)
    submit(timed, bob, his.assignment, RANKS, 1.0)
    taken = assignment.next_task(timed, bob)
    assert taken is not None
    assert taken.task == hers.task
    other = assignment.next_task(timed, ada)
    assert other is not None
    assert other.task not in (hers.task, his.task)


def test_a_skipped_task_goes_to_others_and_never_back(timed: Store) -> None:
    ada, bob = timed.add_user("ada"), timed.add_user("bob")
    task = assignment.next_task(timed, ada)
    assert task is not None
    with pytest.raises(Refused, match="reason"):
        skip(timed, ada, task.assignment, "  ", 1.0)
    skip(timed, ada, task.assignment, "does not play", 1.0)
    assert task.task not in work(timed.url, "ada")
    his = assignment.next_task(timed, bob)
    assert his is not None
    assert his.task == task.task
    assert len(timed.judgements("main")) == 11
    assert len(timed.judgements("main", include_skips=True)) == 12


def test_recent_answers_come_back_as_shown_and_can_be_changed_for_a_while(timed: Store, clock: Any) -> None:
    ada, bob = timed.add_user("ada"), timed.add_user("bob")
    for ranks in ([1, 2, 3, 4], [4, 3, 2, 1]):
        task = assignment.next_task(timed, ada)
        assert task is not None
        submit(timed, ada, task.assignment, {"overall": ranks}, 1.0, "so", "odd prompt")
        clock.now += 60
    second, first = recent_answers(timed, ada)
    assert (first.ranks, second.ranks) == ({"overall": [1, 2, 3, 4]}, {"overall": [4, 3, 2, 1]})
    assert (first.comment, first.flag, first.answered_at) == ("so", "odd prompt", clock.now - 120)
    assert recent_answers(timed, bob) == []
    revise(timed, ada, first.task.assignment, {"overall": [1, 1, 1, 1]}, 1.0)
    assert recent_answers(timed, ada)[1].ranks == {"overall": [1, 1, 1, 1]}
    clock.now += 3600
    assert recent_answers(timed, ada) == []
    with pytest.raises(Refused, match="too old"):
        revise(timed, ada, first.task.assignment, {"overall": [1, 2, 3, 4]}, 1.0)


@pytest.mark.parametrize(("comment", "flag"), [("a\0b", ""), ("", "\0"), ("\ud800", ""), ("", "x" * 201)])
def test_texts_that_no_database_keeps_are_refused(filled: Store, comment: str, flag: str) -> None:
    ada = filled.add_user("ada")
    task = assignment.next_task(filled, ada)
    assert task is not None
    with pytest.raises(Refused, match="NUL"):
        submit(filled, ada, task.assignment, RANKS, 1.0, comment, flag)


def test_progress_counts_what_is_done_and_what_is_left_for_this_person(timed: Store) -> None:
    ada, bob = timed.add_user("ada"), timed.add_user("bob")
    task = assignment.next_task(timed, ada)
    assert task is not None
    assert progress(timed, ada) == Progress(0, 12)
    assert progress(timed, bob) == Progress(0, 11)
    submit(timed, ada, task.assignment, RANKS, 1.0)
    assert progress(timed, ada) == Progress(1, 11)


@pytest.mark.parametrize(
    "ranks",
    [
        {"overall": [1, 2, 3]},
        {"overall": [1, 2, 3, 4, 5]},
        {"overall": [0, 1, 2, 3]},
        {"overall": [1, 2, 3, 5]},
        {"overall": [1, 2, 3, True]},
        {"overall": [1.0, 2, 3, 4]},
        {"overall": "1234"},
        {"motion": [1, 2, 3, 4]},
        {"overall": [1, 2, 3, 4], "motion": [1, 2, 3, 4]},
        {},
    ],
)
def test_illegal_ranks_are_refused_and_nothing_is_stored(filled: Store, ranks: Any) -> None:
    ada = filled.add_user("ada")
    task = assignment.next_task(filled, ada)
    assert task is not None
    with pytest.raises(Refused):
        submit(filled, ada, task.assignment, ranks, 1.0)
    assert filled.judgements("main") == []
    assert filled.tasks("main")[0].completed == 0


def test_nobody_answers_for_somebody_else(filled: Store) -> None:
    ada, eve = filled.add_user("ada"), filled.add_user("eve")
    task = assignment.next_task(filled, ada)
    assert task is not None
    for act in (
        lambda: submit(filled, eve, task.assignment, RANKS, 1.0),
        lambda: skip(filled, eve, task.assignment, "no", 1.0),
        lambda: assignment.renew(filled, eve, task.assignment),
        lambda: revise(filled, eve, task.assignment, RANKS, 1.0),
    ):
        with pytest.raises(Refused, match="not assigned to you"):
            act()


def test_places_are_stored_without_gaps() -> None:
    assert dense_ranks([4, 2, 2, 7]) == [2, 1, 1, 3]
