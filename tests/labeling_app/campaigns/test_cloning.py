"""Clones of campaigns, and example videos of guidelines."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from alignment import cli
from generator.output import InputError
from labeling_app.campaigns.campaigns import Rules, add_project, make_gold, set_rules
from labeling_app.campaigns.cloning import clone_campaign
from labeling_app.campaigns.lifecycle import delete_campaign, set_state
from labeling_app.store.guidelines import guidelines, set_guidelines
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import submit
from labeling_app.tasks.guideline_reading import as_html


@pytest.fixture
def store(sqlite_file: Path) -> Iterator[Store]:
    with Store(sqlite_file) as opened:
        yield opened


def test_a_clone_has_rules_guidelines_and_tasks_but_no_answers(filled: Store) -> None:
    add_project(filled, "spring")
    rules = Rules(gold_share=0.2, daily_cap=9, quiz_size=2, tags=["artefact"], gold_feedback=True)
    set_rules(filled, "main", rules, project="spring")
    for text in ("Look.", "Look twice."):
        set_guidelines(filled, "main", text)
    gold = make_gold(filled, filled.tasks("main")[0].id, {"overall": [1, 2, 3, 4]})
    set_rules(filled, "main", Rules(quiz_size=0, gold_share=0.0))
    ada = filled.add_user("ada")
    task = assignment.next_task(filled, ada)
    assert task is not None
    submit(filled, ada, task.assignment, {"overall": [1, 2, 3, 4]}, 1.0, tags=[])
    set_state(filled, "main", "closed")
    assert clone_campaign(filled, "main", " second ", with_tasks=True) == ("second", 13)
    row = filled.campaign("second")
    assert (row.state, row.overlap, row.tags, row.gold_feedback, row.daily_cap) == (
        "open",
        2,
        ["artefact"],
        True,
        9,
    )
    assert row.project is not None
    newest = guidelines(filled, "second")
    assert newest is not None
    assert (newest.version, newest.text) == (1, "Look twice.")
    assert [task.prompt for task in filled.tasks("second")] == [task.prompt for task in filled.tasks("main")]
    assert {task.completed for task in filled.tasks("second")} == {0}
    (copy,) = filled.tasks("second", kind="gold")
    assert (copy.gold_ranks, copy.copy_of) == ({"overall": [1, 2, 3, 4]}, filled.tasks("second")[0].id)
    assert copy.id != gold
    assert clone_campaign(filled, "second", "third") == ("third", 0)
    delete_campaign(filled, "main", "main")
    assert len(filled.tasks("second")) == 12


def test_the_command_clones_and_refuses_what_does_not_fit(
    tmp_path: Path, candidates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = str(tmp_path / "labels.db")
    with Store(database) as store:
        set_rules(store, "main", Rules(overlap=3), make=True)
    campaign = ["label", "campaign", "--db", database, "--campaign", "main"]
    assert cli.main([*campaign, "--clone", "second", "--clone_tasks"]) == 0
    assert "Made the campaign second like main, with 0 task(s)" in capsys.readouterr().out
    for arguments, said in (
        (["--clone", "second"], "exists already"),
        (["--clone_tasks"], "without --clone"),
        (["--clone", "x", "--pause"], "clone first"),
    ):
        assert cli.main([*campaign, *arguments]) == 2
        assert said in capsys.readouterr().err
    with Store(database) as store:
        assert [row.name for row in store.campaigns()] == ["main", "second"]


def test_videos_in_a_file_of_guidelines_become_examples_that_annotators_may_see(
    tmp_path: Path, candidates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database, file = str(tmp_path / "labels.db"), tmp_path / "guidelines.md"
    video = candidates / "secret-model-000-0.mp4"
    change = ["label", "campaign", "--db", database, "--overlap", "2", "--guidelines", str(file)]
    file.write_text("![gone](gone.mp4)")
    assert cli.main(change) == 2
    assert "The guidelines show a video that cannot be used" in capsys.readouterr().err
    assert not Path(database).exists()
    file.write_text(f"Good:\n\n![smooth & steady]({video})\n\n![a picture](https://example.org/a.mp4)")
    assert cli.main(change) == 0
    with Store(database) as store:
        found = guidelines(store, "default")
        ada = store.add_user("ada")
        assert found is not None
        assert "secret" not in found.text
        media = found.text.split("video:")[1].split(")")[0]
        assert f'<video data-media="{media}" title="smooth &amp; steady"></video>' in as_html(found.text)
        assert '<a href="https://example.org/a.mp4">a picture</a>' in as_html(found.text)
        shown = assignment.visible_media(store, ada, media)
        assert shown is not None
        assert shown.path == str(video.resolve())
        clone_campaign(store, "default", "second")
        delete_campaign(store, "default", "default")
        assert assignment.visible_media(store, ada, media) is not None  # the clone shows it
        delete_campaign(store, "second", "second")
        assert assignment.visible_media(store, ada, media) is None


def test_guidelines_name_only_videos_of_the_store(filled: Store) -> None:
    with pytest.raises(InputError, match="show the video 'nothing'"):
        set_guidelines(filled, "main", "![x](video:nothing)")
    assert guidelines(filled, "main") is None


def test_nothing_in_guidelines_is_active() -> None:
    hostile = (
        '![x](video:a"onerror=1) <video src=x onerror=alert(1)> ![c](javascript:alert(1)) [d](javascript:1)'
    )
    html = as_html(hostile)
    assert "<video" not in html
    assert 'href="javascript:' not in html
