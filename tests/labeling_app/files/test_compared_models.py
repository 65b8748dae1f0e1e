"""Videos of several models into blind tasks of two."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from sqlalchemy import select

from alignment.cli import main
from generator.output import InputError
from labeling_app.files.compared_models import import_compared, read_compared
from labeling_app.store.store import Store
from labeling_app.store.tables import AuditEvent
from labeling_app.tasks.answers import submit
from labeling_app.tasks.hidden_tasks import _copy_for_repeat
from labeling_app.tasks.next_task import next_task
from labeling_app.web.annotator_api import _task_for_page
from tests.labeling_app.model_folders import write_model

PROMPTS = ["a cat", "a dog", "a cow"]


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """Three models; `secret-b` lacks a prompt and has one that no other has."""
    a = write_model(tmp_path / "secret-a", 20, PROMPTS, seeds=(7, 8))
    b = write_model(tmp_path / "secret-b", 60, ["a cat", "a dog", "a fish"], seeds=(7, 8))
    c = write_model(tmp_path / "secret-c", 90, PROMPTS, seeds=(8,))
    return [str(a), f"tuned={b}", str(c)]


def made(store: Store) -> Counter[tuple[str, tuple[str | None, ...]]]:
    return Counter((task.prompt, tuple(v.model for v in task.videos)) for task in store.tasks("duel"))


def test_every_two_models_meet_once_for_each_prompt_and_seed_that_both_have(
    store: Store, folders: list[str]
) -> None:
    summary, notes = import_compared(store, folders, campaign="duel", overlap=2)
    assert (summary.added, summary.known, notes) == (4 + 3 + 2, 0, [])
    assert made(store) == {
        **{(prompt, ("secret-a", "tuned")): 2 for prompt in ("a cat", "a dog")},
        **{(prompt, ("secret-a", "secret-c")): 1 for prompt in PROMPTS},
        **{(prompt, ("tuned", "secret-c")): 1 for prompt in ("a cat", "a dog")},
    }
    for task in store.tasks("duel"):
        names = [Path(video.media.path).stem for video in task.videos]
        assert len({name.rpartition("-")[2] for name in names}) == 1, "seeds differ"
    assert [problem.partition(": ")[0] for problem in summary.problems] == [
        "1 video(s) of secret-a without a partner of the same prompt and seed",
        "2 video(s) of tuned without a partner of the same prompt and seed",
    ]
    again, _ = import_compared(store, folders, campaign="duel")
    assert (again.added, again.known) == (0, 9)


def test_videos_without_seeds_are_matched_by_their_order(tmp_path: Path) -> None:
    a = write_model(tmp_path / "a", 20, ["a cat"], seeds=(None,))
    b = write_model(tmp_path / "b", 60, ["a cat"], seeds=(5, 6))
    compared = read_compared([str(a), str(b)])
    assert [[path.name for path in task.videos] for task in compared.tasks] == [["a-0-None.mp4", "b-0-5.mp4"]]
    rows = [{"prompt": "a cat", "videos": [str(b / "b-0-6.mp4")]}]
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (task,) = read_compared([str(a), f"other={tmp_path / 'b.jsonl'}"]).tasks
    assert (task.models, task.videos[1].name) == (("a", "other"), "b-0-6.mp4")


def test_a_folder_of_evaluate_is_read_as_its_models(tmp_path: Path) -> None:
    both = write_model(tmp_path / "evaluation", 20, ["a cat", "a dog"], models=("base", "dpo"))
    compared = read_compared([str(both)])
    assert compared.models == ("base", "dpo")
    assert [task.models for task in compared.tasks] == [("base", "dpo")] * 2
    other = write_model(tmp_path / "other", 60, ["a cat"])
    assert read_compared([str(both), str(other)]).models == ("evaluation/base", "evaluation/dpo", "other")


def test_models_that_look_different_are_named(store: Store, tmp_path: Path) -> None:
    a, b = write_model(tmp_path / "a", 20, PROMPTS), write_model(tmp_path / "b", 60, PROMPTS, size=96)
    _, notes = import_compared(store, [str(a), str(b)], campaign="duel")
    assert notes == [
        "a and b differ in size, rate or length (64×64, 8 frames a second, 2 frames against 96×96, 8 frames a second, "
        "2 frames), so annotators may tell them apart."
    ]


def test_an_annotator_learns_no_model_and_sees_both_orders(store: Store, folders: list[str]) -> None:
    import_compared(store, folders, campaign="duel", overlap=9)
    first: Counter[int] = Counter()
    for number in range(6):
        user = store.add_user(f"u{number}")
        for _ in range(4):
            task = next_task(store, user, "duel")
            assert task is not None
            shown = json.dumps(_task_for_page(task))
            assert not [word for word in ("secret", "tuned", "model") if word in shown]
            first[task.permutation[0]] += 1
            submit(store, user, task.assignment, {"overall": [1, 2]}, 3.0)
    assert min(first.values()) >= 4, first


def test_a_repeat_knows_the_models_too(store: Store, folders: list[str]) -> None:
    import_compared(store, folders, campaign="duel")
    task = store.tasks("duel")[0]
    with store.write() as session:
        _copy_for_repeat(session, task.id, 1, 0.0)
    (repeat,) = store.tasks("duel", kind="repeat")
    assert [v.model for v in repeat.videos] == [v.model for v in task.videos]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["{a}"], r"Only the videos of a were given: compare two models or more\."),
        (["{a}", "{a}/../a"], r"Two models would be called 'a'"),
        (["{a}", "b={a}"], r"a and b are the same videos"),
        (["{a}", "{a}-missing"], r"does not exist: give NAME=FOLDER"),
        (["{a}", "{other}"], r"a and other have no prompt and seed in common"),
        (["{a}", "={other}"], r"The name of a model is ''"),
    ],
)
def test_mistakes_are_one_sentence_and_leave_no_database(
    sources: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write_model(tmp_path / "a", 20, ["a cat"])
    other = write_model(tmp_path / "other", 60, ["a dog"])
    given = [source.format(a=a, other=other) for source in sources]
    assert main(["label", "import", "--db", str(tmp_path / "labels.db"), "--compare", *given]) == 2
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))
    assert not (tmp_path / "labels.db").exists()


def test_two_videos_of_one_seed_are_refused(tmp_path: Path) -> None:
    a = write_model(tmp_path / "a", 20, ["a cat", "a cat"], seeds=(3,))
    b = write_model(tmp_path / "b", 60, ["a cat"], seeds=(3,))
    with pytest.raises(InputError, match="a has two videos of the prompt 'a cat' and seed 3"):
        read_compared([str(a), str(b)])


def test_the_command_imports_and_names_what_is_left_out(
    folders: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = str(tmp_path / "labels.db")
    arguments = ["label", "import", "--db", database, "--campaign", "duel", "--compare", *folders]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "Left out: 2 video(s) of tuned without a partner" in printed
    assert "Campaign duel: 9 new task(s), 0 known already." in printed
    with Store(database) as store, store.read() as session:
        assert session.scalars(select(AuditEvent.action)).all() == ["import"]
