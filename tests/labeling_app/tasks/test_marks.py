"""Tags of videos with an answer: checked, stored with each version, exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alignment import cli
from generator.output import InputError
from labeling_app.campaigns.campaigns import Rules, set_rules
from labeling_app.files.rankings import export_rankings, ranking_rows
from labeling_app.quality.adjudication import adjudicate
from labeling_app.quality.reliability import read_store
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import recent_answers, revise, submit
from labeling_app.tasks.lease import Refused
from labeling_app.tasks.marks import is_place

RANKS = {"overall": [1, 2, 3, 4]}
TAGS = ["artefact", "wrong motion"]
POINT = {"seconds": 0.5, "x": 0.25, "y": 1.0}
BOX = {"seconds": 0.125, "x": 0.5, "y": 0.5, "width": 0.5, "height": 0.25}


def mark(video: int, tag: str, **place: float) -> dict[str, Any]:
    return {"video": video, "tag": tag, **place}


def test_tags_are_stored_in_the_tasks_order_with_each_version_and_exported(
    filled: Store, tmp_path: Path
) -> None:
    set_rules(filled, "main", Rules(tags=TAGS))
    ada = filled.add_user("ada")
    task = assignment.next_task(filled, ada, order=lambda _: [3, 2, 0, 1])
    assert task is not None
    assert task.tags == ("artefact", "wrong motion")
    given = [mark(1, "wrong motion", **BOX), mark(0, "artefact"), mark(1, "artefact", **POINT)]
    submit(filled, ada, task.assignment, RANKS, 1.0, tags=[*given, mark(0, "artefact")])
    (judgement,) = filled.judgements("main")
    assert judgement.tags == [
        mark(2, "artefact", **POINT), mark(2, "wrong motion", **BOX), mark(3, "artefact")
    ]  # fmt: skip
    (answered,) = recent_answers(filled, ada)
    assert sorted(answered.tags, key=str) == sorted(given, key=str)
    revise(filled, ada, task.assignment, RANKS, 1.0, tags=[])
    versions = [j.tags for j in filled.judgements("main", all_versions=True)]
    assert versions == [judgement.tags, []]  # the first version stays as it was
    revise(filled, ada, task.assignment, RANKS, 1.0, tags=given)
    export_rankings(filled, "main", tmp_path / "rankings.jsonl")
    row = json.loads((tmp_path / "rankings.jsonl").read_text())
    assert row["tags"] == [{**each, "video": row["videos"][each["video"]]} for each in judgement.tags]
    if filled.url.startswith("sqlite"):
        (ranking,) = read_store(f"db:{filled.url}#main")
        assert ranking.tags == (frozenset(), frozenset(), frozenset(TAGS), frozenset({"artefact"}))


def test_who_was_not_asked_has_no_tags_and_a_decision_brings_its_own(filled: Store) -> None:
    ada, lea = filled.add_user("ada"), filled.add_user("lea", role="lead")
    first = assignment.next_task(filled, ada)
    assert first is not None
    submit(filled, ada, first.assignment, RANKS, 1.0, tags=[])
    assert "tags" not in ranking_rows(filled, "main", None)[0]  # the campaign has none yet
    set_rules(filled, "main", Rules(tags=TAGS))
    adjudicate(filled, lea, first.task, RANKS, tags=[mark(1, "artefact")])
    (row,) = ranking_rows(filled, "main", None)
    assert row["tags"] == [{"video": row["videos"][1], "tag": "artefact"}]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([mark(4, "artefact")], "a video that is not there"),
        ([mark(0, "odd")], "not one of this campaign"),
        ([mark(0, "artefact", x=0.5, y=0.5)], "outside of the video"),
        ([mark(0, "artefact", **BOX | {"x": 0.6})], "outside of the video"),
        ([mark(0, "artefact")] * 201, "at most 200"),
    ],
)
def test_illegal_marks_are_refused_and_nothing_is_stored(
    filled: Store, given: list[dict[str, Any]], said: str
) -> None:
    set_rules(filled, "main", Rules(tags=TAGS))
    ada = filled.add_user("ada")
    task = assignment.next_task(filled, ada)
    assert task is not None
    with pytest.raises(Refused, match=said):
        submit(filled, ada, task.assignment, RANKS, 1.0, tags=given)
    assert filled.judgements("main") == []


def test_a_place_is_a_moment_a_point_or_a_box() -> None:
    legal = [{}, {"seconds": 0.0}, POINT, BOX]
    assert all(is_place(place) for place in legal)
    nowhere = [{"x": 0.5, "y": 0.5}, {"seconds": 1.0, "x": 0.5}, POINT | {"x": -0.1}, BOX | {"height": 0.6}]
    assert not any(is_place(place) for place in [*nowhere, {"seconds": float("nan")}, {"seconds": 1e9}])


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (["motion"], "one of the dimensions"),
        (["Flicker", "flicker "], "reads like another one"),
        (["a, b"], "cannot have the tag"),
        (["…"], "cannot have the tag"),
        ([f"tag {number}" for number in range(31)], "cannot have 31 tags"),
    ],
)
def test_tags_that_a_reward_model_could_not_tell_apart_are_refused(
    filled: Store, tags: list[str], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        set_rules(filled, "main", Rules(tags=tags))
    assert filled.campaign("main").tags == []


def test_the_command_sets_tags_until_somebody_chose_among_them(
    tmp_path: Path, candidates: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    database = str(tmp_path / "labels.db")
    assert (
        cli.main(["label", "import", "--db", database, "--videos", str(candidates), "--campaign", "main"])
        == 0
    )
    change = ["label", "campaign", "--db", database, "--campaign", "main", "--tags"]
    assert cli.main([*change, "artefact"]) == 0
    assert cli.main([*change, "artefact", "wrong count"]) == 0
    assert "tags artefact, wrong count" in capsys.readouterr().out
    with Store(database) as store:
        ada = store.add_user("ada")
        task = assignment.next_task(store, ada)
        assert task is not None
        submit(store, ada, task.assignment, RANKS, 1.0, tags=[mark(0, "wrong count")])
    assert cli.main([*change, "artefact"]) == 2
    assert "these do not change any more: clone it" in capsys.readouterr().err
    assert cli.main([*change, "artefact", "wrong count"]) == 0
