"""The lead's task browser: filters, pages, and what is said of each task."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from generator.output import InputError
from labeling_app.campaigns.task_list import TaskFilter, find_tasks
from labeling_app.files.candidates import import_tasks, named_values
from labeling_app.quality.adjudication import adjudicate, decision, task_to_decide
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import revise, skip, submit


@pytest.fixture
def answered(filled: Store) -> Store:
    """Of twelve tasks the first has two equal answers, the second two opposite ones of which one is flagged, the third
    one answer and a skip, and the fourth is in Ben's hands; the second is decided."""
    ada, ben = filled.add_user("ada"), filled.add_user("ben")
    for user, second in ((ada, [1, 2, 3, 4]), (ben, [4, 3, 2, 1])):
        for ranks in ([1, 2, 3, 4], second):
            task = assignment.next_task(filled, user, order=lambda _: range(4))
            assert task is not None
            submit(filled, user, task.assignment, {"overall": ranks}, 1.0, flag="odd" if user is ben else "")
        if user is ben:
            revise(filled, ben, task.assignment, {"overall": second}, 1.0, flag="odd")
    third = assignment.next_task(filled, ada)
    assert third is not None
    submit(filled, ada, third.assignment, {"overall": [1, 2, 3, 4]}, 1.0)
    given = assignment.next_task(filled, ben)
    assert given is not None
    skip(filled, ben, given.assignment, "dull", 1.0)
    assignment.next_task(filled, ben)
    lea = filled.add_user("lea", role="lead")
    adjudicate(filled, lea, filled.tasks("main")[1].id, {"overall": [2, 1, 3, 3]}, "so")
    return filled


def places(store: Store, **wanted: Any) -> list[int]:
    """Places in the campaign of the tasks found."""
    order = [task.id for task in store.tasks("main")]
    return [order.index(row["task"]) for row in find_tasks(store, "main", TaskFilter(**wanted))["tasks"]]


def test_filters_leave_the_tasks_that_fit_all_of_them(answered: Store) -> None:
    assert places(answered) == list(range(12))
    assert places(answered, prompt="TAKE 1") == [1, 10, 11]
    assert places(answered, prompt="%") == []
    assert places(answered, status="done") == [0, 1]
    assert places(answered, status="started") == [2]
    assert places(answered, status="waiting") == list(range(3, 12))
    assert places(answered, status="skipped") == [2]
    assert places(answered, status="held") == [3]
    assert places(answered, status="decided") == [1]
    assert places(answered, status="undecided") == [0]
    assert places(answered, flagged=True) == [0, 1]
    assert places(answered, max_agreement=1.0) == [0, 1]
    assert places(answered, max_agreement=0.5) == [1]
    assert places(answered, max_agreement=0.5, prompt="take 0") == []
    assert places(answered, kind="gold") == []


def test_the_server_turns_the_pages(answered: Store) -> None:
    numbers = [task.id for task in answered.tasks("main")]
    pages = [find_tasks(answered, "main", TaskFilter(), page, page_size=5) for page in (1, 2, 3, 99)]
    assert [[row["task"] for row in page["tasks"]] for page in pages] == [
        numbers[:5],
        numbers[5:10],
        numbers[10:],
        numbers[10:],
    ]
    assert [(page["total"], page["page"], page["pages"]) for page in pages] == [
        (12, 1, 3),
        (12, 2, 3),
        (12, 3, 3),
        (12, 3, 3),
    ]


def test_each_task_says_what_is_known_about_it(answered: Store) -> None:
    rows = find_tasks(answered, "main", TaskFilter())["tasks"]
    assert [row["agreement"] for row in rows[:3]] == [1.0, 0.0, None]
    assert [row["flags"] for row in rows[:3]] == [1, 1, 0]
    assert [row["decided"] for row in rows[:3]] == [False, True, False]
    assert (rows[2]["skips"], rows[3]["held"]) == (1, 1)
    found = task_to_decide(answered, rows[1]["task"])
    assert found.answers == {"overall": {"ada": [1, 2, 3, 4], "ben": [4, 3, 2, 1]}}
    assert decision(answered, found.task) == {
        "by": "lea", "ranks": {"overall": [2, 1, 3, 3]}, "comment": "so", "tags": None
    }  # fmt: skip
    with pytest.raises(InputError, match="There is no task 99999"):
        task_to_decide(answered, 99999)


def test_tasks_are_found_by_the_values_of_their_files(store: Store, candidates: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (candidates / "metadata.jsonl").read_text().splitlines()][:8]
    for number, row in enumerate(rows):
        row |= {
            "file_name": str(candidates / row["file_name"]),
            "model": f"Model-{number // 4}",
            "seed": number,
        }
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    import_tasks(store, tmp_path, campaign="main")
    assert places(store, metadata="model=model-1") == [1]
    assert places(store, metadata="seed=3") == [0]
    assert places(store, metadata="model-") == [0, 1]
    assert places(store, metadata="seed=model-1") == []
    (first, _) = find_tasks(store, "main", TaskFilter())["tasks"]
    assert first["metadata"] == {"model": ["Model-0"], "seed": ["0", "1", "2", "3"]}


def test_only_short_values_that_are_no_part_of_a_task_are_kept() -> None:
    row = {"prompt": "p", "file_name": "a.mp4", "ranks": [1], "model": "m", "good": True, "none": None}
    row |= {"long": "x" * 201, "metadata": {"topic": "hands", "list": [1]}}
    assert named_values(row) == (("model", "m"), ("good", "true"), ("topic", "hands"))


def test_leads_find_the_beginning_of_a_long_rewritten_prompt() -> None:
    assert named_values({"prompt": "a dog", "rewritten_prompt": "a dog runs"}) == (
        ("rewritten_prompt", "a dog runs"),
    )
    ((_, value),) = named_values({"prompt": "a dog", "rewritten_prompt": "long " * 100})
    assert len(value) == 200
    assert value.startswith("long long")
    assert value.endswith("…")


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"status": "odd"}, "use one of waiting"),
        ({"kind": "repeat"}, "use normal or gold"),
        ({"max_agreement": 1.5}, "a share lies in"),
        ({"prompt": "\0"}, "holds a NUL"),
    ],
)
def test_a_filter_that_is_none_is_one_sentence(wanted: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        TaskFilter(**wanted)
