"""Clips that are replaced after they were judged."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from alignment.cli import main
from labeling_app.campaigns.demonstrations import add_library, ask, demonstrate, open_prompts
from labeling_app.files.candidates import import_tasks
from labeling_app.quality.reliability import read_store
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import submit
from labeling_app.web.server import create_app

PASSWORD = "correct horse"


@pytest.fixture
def folder(write_candidates: Callable[[list[str], int], Path]) -> Path:
    return write_candidates(["a circle", "a square"], 2)


@pytest.fixture
def judged(tmp_path: Path, folder: Path) -> Store:
    """Two tasks that Ada has ranked; the clips may be replaced."""
    store = Store(tmp_path / "labels.db")
    import_tasks(store, folder, campaign="main")
    ada = store.add_user("ada", PASSWORD)
    while task := assignment.next_task(store, ada):
        submit(store, ada, task.assignment, {"overall": [1, 2]}, 1.0)
    return store


def replace(store: Store) -> Path:
    """Writes the clip of another task over the first one's."""
    first, other = store.tasks("main")
    path = Path(first.videos[0].media.path)
    shutil.copyfile(other.videos[0].media.path, path)
    return path


@pytest.mark.parametrize("format", ["vidalign", "videogen-rewardbench", "genai-bench", "rapidata"])
def test_rankings_of_a_replaced_clip_are_refused_by_name_or_left_out(
    judged: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str], format: str
) -> None:
    replaced = replace(judged)
    output = tmp_path / "out" / "rankings.jsonl"
    output.parent.mkdir()
    command = ["label", "export", "--db", judged.url, "--campaign", "main", "--output_file", str(output)]
    command += ["--format", format]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert str(replaced) in said
    assert "--skip_bad" in said
    assert list(output.parent.iterdir()) == []
    assert main([*command, "--skip_bad"]) == 0
    assert str(replaced) in capsys.readouterr().out
    assert len(output.read_text().splitlines()) == 1
    assert "a circle" not in output.read_text()
    for video in (output.parent / "videos").glob("*"):
        assert hashlib.sha256(video.read_bytes()).hexdigest().startswith(video.stem)


def test_a_clip_that_is_put_back_counts_again(judged: Store, tmp_path: Path) -> None:
    path = Path(judged.tasks("main")[0].videos[0].media.path)
    content = path.read_bytes()
    path.unlink()
    assert (
        main(["label", "export", "--db", judged.url, "--campaign", "main", "--output_file", "x.jsonl"]) == 2
    )
    path.write_bytes(content)
    output = str(tmp_path / "x.jsonl")
    assert main(["label", "export", "--db", judged.url, "--campaign", "main", "--output_file", output]) == 0


def test_videos_that_were_handed_out_stay_what_their_names_say(judged: Store, tmp_path: Path) -> None:
    output = tmp_path / "out" / "bench.csv"
    output.parent.mkdir()
    command = ["label", "export", "--db", judged.url, "--campaign", "main", "--output_file", str(output)]
    command += ["--format", "videogen-rewardbench"]
    assert main(command) == 0
    replace(judged)
    videos = list((output.parent / "videos").iterdir())
    assert len(videos) == 4
    for video in videos:
        assert hashlib.sha256(video.read_bytes()).hexdigest().startswith(video.stem)


def test_training_from_the_store_refuses_a_replaced_clip(
    judged: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(read_store(f"db:{judged.url}#main")) == 2
    replaced = replace(judged)
    source = f"db:{judged.url}#main"
    assert main(["reward", "--preferences", source, "--output_dir", str(tmp_path / "reward")]) == 2
    assert str(replaced) in capsys.readouterr().err
    assert not (tmp_path / "reward").exists()


def test_a_replaced_clip_is_not_shown(judged: Store, folder: Path) -> None:
    judged.add_user("bob", PASSWORD)
    import_tasks(judged, folder, campaign="again")
    bob = TestClient(create_app(judged, campaign="again"))
    bob.post("/login", data={"name": "bob", "password": PASSWORD})
    videos = [video["id"] for video in bob.get("/api/next").json()["task"]["videos"]]
    assert [bob.get(f"/media/{video}").status_code for video in videos] == [200, 200]
    replace(judged)
    answers = [bob.get(f"/media/{video}") for video in videos]
    assert sorted(answer.status_code for answer in answers) == [200, 409]
    (refused,) = [answer for answer in answers if answer.status_code == 409]
    assert "has changed since it was imported" in refused.json()["message"]


def test_demonstrations_and_simulated_annotators_refuse_a_replaced_clip(
    judged: Store, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    add_library(judged, "main", folder)
    ask(judged, "main", ["a circle"])
    ada: Any = judged.user("ada")
    (prompt,) = open_prompts(judged, ada)
    given = judged.tasks("main")[0].videos[0].media
    demonstrate(judged, ada, prompt.id, given.id)
    replaced = replace(judged)
    command = ["label", "export", "--db", judged.url, "--campaign", "main"]
    assert main([*command, "--demonstrations", str(tmp_path / "sft")]) == 2
    assert str(replaced) in capsys.readouterr().err
    scores = folder / "scores.jsonl"
    rows = [{"video": path.name, "score": 1} for path in folder.glob("*.mp4")]
    scores.write_text("".join(json.dumps(row) + "\n" for row in rows))
    simulate = ["label", "simulate", "--db", judged.url, "--campaign", "main", "--scores", str(scores)]
    assert main(simulate) == 2
    assert str(replaced) in capsys.readouterr().err


def test_the_lead_is_told_of_replaced_clips_and_gets_the_rest(judged: Store) -> None:
    judged.add_user("lea", PASSWORD, role="lead")
    lea = TestClient(create_app(judged))
    lea.post("/login", data={"name": "lea", "password": PASSWORD})
    replaced = replace(judged)
    assert lea.get("/api/lead/quality?campaign=main").json()["changed_files"] == [str(replaced)]
    refused = lea.get("/api/lead/export?campaign=main")
    assert (refused.status_code, str(replaced) in refused.json()["message"]) == (400, True)
    assert len(lea.get("/api/lead/export?campaign=main&skip_bad=true").text.splitlines()) == 1
