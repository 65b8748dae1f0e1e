"""Flags, comments and reasons of skips name a video, whatever letter it had for whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from labeling_app.files.rankings import export_rankings
from labeling_app.store.store import Store
from labeling_app.store.tables import Task
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import revise, submit
from labeling_app.web.server import create_app

PASSWORD = "correct horse"
BROKEN = "Video B looks broken"
RANKS = {"overall": [1, 2, 3, 4]}


@pytest.fixture
def store(sqlite_file: Path) -> Any:
    with Store(sqlite_file) as opened:
        yield opened


def fixed_order(*order: int) -> Any:
    return lambda _: list(order)


def client(store: Store, name: str) -> TestClient:
    made = TestClient(create_app(store), follow_redirects=False)
    assert made.post("/login", data={"name": name, "password": PASSWORD}).status_code == 303
    return made


def task_of(store: Store, name: str, order: tuple[int, ...]) -> Any:
    user = store.user(name) or store.add_user(name, PASSWORD)
    return user, assignment.next_task(store, user, order=fixed_order(*order))


def files(task: Task) -> list[str]:
    return [Path(video.media.path).name for video in task.videos]


@pytest.mark.parametrize("given", [None, {"flag": [1]}])
def test_a_flag_names_the_video_that_its_annotator_saw(
    filled: Store, tmp_path: Path, given: dict[str, list[int]] | None
) -> None:
    """Bob's B is the task's third video, so the lead's C: by choice, or by the letter in his words."""
    filled.add_user("lea", PASSWORD, role="lead")
    _, task = task_of(filled, "bob", (3, 2, 0, 1))
    bob = client(filled, "bob")
    body = {"ranks": RANKS, "seconds": 2, "flag": BROKEN, "remark_videos": given}
    assert bob.post(f"/api/assignments/{task.assignment}/judgement", json=body).status_code == 200
    (worst,) = client(filled, "lea").get("/api/lead/disagreements?campaign=main").json()["tasks"]
    (remark,) = worst["remarks"]
    assert (remark["annotator"], remark["kind"], remark["text"]) == ("bob", "flag", BROKEN)
    assert remark["videos"] == [{"lead": "C", "annotator": "B"}]
    assert [pair["lead"] for pair in remark["letters"]] == ["D", "C", "A", "B"]

    export_rankings(filled, "main", tmp_path / "rankings.jsonl")
    (row,) = [json.loads(line) for line in (tmp_path / "rankings.jsonl").read_text().splitlines()]
    third = row["videos"][2]
    assert Path(third).name == files(filled.tasks("main")[0])[2]
    assert (row["flag"], row["flag_videos"]) == (BROKEN, [third])
    assert row["letters"]["annotator"]["B"] == row["letters"]["lead"]["C"] == third
    (answered,) = bob.get("/api/answers").json()["answers"]
    assert answered["remark_videos"] == {"flag": [1]}


def test_a_changed_answer_and_a_comment_keep_their_videos(filled: Store) -> None:
    user, task = task_of(filled, "bob", (1, 0, 3, 2))
    submit(filled, user, task.assignment, RANKS, 1.0, "Video A and video D are alike")
    (first,) = filled.judgements("main")
    assert first.remark_videos == {"comment": [1, 2]}
    revise(filled, user, task.assignment, RANKS, 1.0, "Video A", "", {"comment": []})
    assert [j.remark_videos for j in filled.judgements("main")] == [None]


def test_the_reason_of_a_skip_names_its_video(filled: Store) -> None:
    filled.add_user("lea", PASSWORD, role="lead")
    _, task = task_of(filled, "bob", (3, 2, 0, 1))
    body = {"reason": "A video does not play", "seconds": 1, "remark_videos": {"skip_reason": [0]}}
    bob = client(filled, "bob")
    assert bob.post(f"/api/assignments/{task.assignment}/skip", json=body).status_code == 200
    (skipped,) = client(filled, "lea").get("/api/lead/quality?campaign=main").json()["skipped"]
    assert skipped["remark"]["videos"] == [{"lead": "D", "annotator": "A"}]
    assert skipped["media"] == [video.media_id for video in filled.tasks("main")[0].videos]


@pytest.mark.parametrize("places", [[4], [-1], ["1"], [True]])
def test_a_remark_about_no_video_is_refused(filled: Store, places: list[Any]) -> None:
    _, task = task_of(filled, "bob", (0, 1, 2, 3))
    body = {"ranks": RANKS, "seconds": 2, "flag": "odd", "remark_videos": {"flag": places}}
    refused = client(filled, "bob").post(f"/api/assignments/{task.assignment}/judgement", json=body)
    assert refused.status_code in (403, 422)
    assert filled.judgements("main") == []


def test_the_letters_of_a_lead_are_those_of_the_file(filled: Store, tmp_path: Path) -> None:
    user, task = task_of(filled, "bob", (0, 1, 2, 3))
    submit(filled, user, task.assignment, RANKS, 1.0)
    filled.add_user("lea", PASSWORD, role="lead")
    decision = {"ranks": {"overall": [2, 1, 3, 4]}, "comment": "video B is sharper"}
    lea = client(filled, "lea")
    assert lea.post(f"/api/lead/tasks/{task.task}/adjudication", json=decision).status_code == 200
    export_rankings(filled, "main", tmp_path / "rankings.jsonl")
    row = json.loads((tmp_path / "rankings.jsonl").read_text())
    assert (row["comment"], row["comment_videos"]) == ("video B is sharper", [row["videos"][1]])
