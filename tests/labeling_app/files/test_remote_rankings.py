"""Rankings whose lines name files in other storage: read, trained on, imported, picked and reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

from alignment import cli
from generator.output import InputError
from labeling_app.files.candidates import import_tasks
from labeling_app.store.contents import task_media
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import submit
from reward.preferences import read_rankings
from tests.labeling_app.remote_folder import put


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIDALIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "remote"


@pytest.fixture
def rankings(memory: str, tmp_path: Path) -> Path:
    """A file of two rankings of videos in other storage."""
    rows = [
        {"prompt": f"prompt {n}", "videos": [f"{memory}/secret-model-00{n}-{k}.mp4" for k in (0, 1)]}
        for n in (0, 1)
    ]
    path = tmp_path / "rankings.jsonl"
    path.write_text("".join(json.dumps({**row, "ranks": [1, 2]}) + "\n" for row in rows))
    return path


@pytest.fixture
def blue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A reward that likes blue."""
    text = "def score(videos, prompts):\n    return 9 * videos[:, 2].mean(dim=(1, 2, 3))\n"
    (tmp_path / "blue_reward.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "blue_reward:score"


def answer_all(store: Store, campaign: str) -> None:
    user = store.user("bob") or store.add_user("bob")
    while (task := assignment.next_task(store, user, campaign)) is not None:
        submit(store, user, task.assignment, {"overall": [1, 2]}, 2.0)


def test_the_videos_of_a_rankings_file_are_fetched_once(
    rankings: Path, candidates: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = read_rankings(rankings)
    assert [video.read_bytes() for video in (*first.videos, *second.videos)] == [
        (candidates / f"secret-model-00{n}-{k}.mp4").read_bytes() for n in (0, 1) for k in (0, 1)
    ]
    assert {video.parent for video in first.videos} == {cache}
    monkeypatch.setattr("generator.video_files.remote_files._download", None)  # nothing is fetched again
    assert read_rankings(rankings) == [first, second]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("memory://nowhere/a.mp4", "There is no file memory://nowhere/a.mp4"),
        ("https://host/a.mp4?X-Amz-Signature=hunter2", "line 1: The URL https://host/a.mp4 holds a user"),
        ("file:///etc/a.mp4", "line 1: file:///etc/a.mp4 is not the URL of a storage"),
        ("memory://bucket/run.sh", "line 1: memory://bucket/run.sh is neither a video"),
    ],
)
def test_a_url_that_cannot_be_read_is_one_sentence(
    name: str, said: str, tmp_path: Path, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "rankings.jsonl"
    path.write_text(json.dumps({"prompt": "a", "videos": [name, "memory://b/b.mp4"], "ranks": [1, 2]}))
    out = str(tmp_path / "out")
    for command in (
        ["reward", "--preferences", str(path), "--use_cpu", "true"],
        ["dpo", "--preferences", str(path)],
    ):
        assert cli.main([*command, "--output_dir", out]) == 2
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert said in error
        assert "hunter2" not in error
    assert not (tmp_path / "out").exists()
    assert not list(cache.glob("*.mp4"))


def test_a_rankings_file_that_is_itself_elsewhere_is_refused_in_one_sentence() -> None:
    with pytest.raises(InputError, match=r"A URL \(s3://…\) was given .* fetch the file and give its path"):
        read_rankings("s3://bucket/hunter2.jsonl")


def test_an_export_with_urls_is_evaluated_and_imported_again(
    memory: str, blue: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Store(tmp_path / "labels.db") as store:
        import_tasks(store, memory, campaign="main")
        answer_all(store, "main")
    exported = str(tmp_path / "exported.jsonl")
    db = ["--db", str(tmp_path / "labels.db")]
    assert cli.main(["label", "export", *db, "--campaign", "main", "--output_file", exported]) == 0
    evaluated = ["reward", "evaluate", "--reward", blue, "--preferences", exported, "--device", "cpu"]
    evaluated += ["--calibration_fraction", "0", "--output_dir", str(tmp_path / "agreement")]
    assert cli.main(evaluated) == 0
    assert "overall: pair accuracy" in capsys.readouterr().out
    again = ["--db", str(tmp_path / "again.db"), "--campaign", "main"]
    assert cli.main(["label", "import", *again, "--preferences", exported]) == 0
    assert cli.main(["label", "gold", *again, "--rankings", exported]) == 0
    with Store(tmp_path / "again.db") as store:
        tasks = [*store.tasks("main"), *store.tasks("main", kind="gold")]
        assert len(tasks) == 4
        assert {media.path for media in task_media(tasks)} == {
            f"{memory}/secret-model-00{n}-{k}.mp4" for n in (0, 1) for k in (0, 1)
        }
        assert all(media.remote_version for media in task_media(tasks))
        assert len(store.judgements("main")) == 2


def test_pairs_of_videos_elsewhere_are_picked_and_never_twice(
    memory: str, blue: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picked = tmp_path / "picked.jsonl"
    select = ["label", "select", "--db", str(tmp_path / "labels.db"), "--reward", blue, "--count", "1"]
    select += ["--videos", memory, "--random_share", "0", "--output_file", str(picked), "--overwrite"]
    assert [cli.main(select), cli.main(select)] == [0, 0]
    with Store(tmp_path / "labels.db") as store:
        videos = [[video.media.path for video in task.videos] for task in store.tasks("default")]
        assert videos[1] == json.loads(picked.read_text())["videos"]
        assert {path for pair in videos for path in pair} == {
            f"{memory}/secret-model-00{n}-{k}.mp4" for n in (0, 1) for k in (0, 1)
        }
    assert cli.main(select) == 2
    assert "No pair is left" in capsys.readouterr().err


def test_models_whose_videos_are_elsewhere_are_compared_and_shown_in_the_report(
    memory: str, candidates: Path, tmp_path: Path
) -> None:
    other = memory.replace("secret-model", "other")
    put(other, candidates)
    files: Any = fsspec.filesystem("memory")
    for n in (0, 1):  # of two models, no two videos are alike
        source = (candidates / f"secret-model-00{n + 2}-0.mp4").read_bytes()
        files.pipe(f"{other}/secret-model-00{n}-0.mp4".removeprefix("memory:/"), source)
        source = (candidates / f"secret-model-00{n + 2}-1.mp4").read_bytes()
        files.pipe(f"{other}/secret-model-00{n}-1.mp4".removeprefix("memory:/"), source)
    db = ["--db", str(tmp_path / "labels.db"), "--campaign", "duel"]
    assert cli.main(["label", "import", *db, "--compare", f"base={memory}", other]) == 0
    with Store(tmp_path / "labels.db") as store:
        assert {video.model for task in store.tasks("duel") for video in task.videos} == {"base", "other"}
        answer_all(store, "duel")
    assert cli.main(["evaluate", "human", *db, "--output_dir", str(tmp_path / "human")]) == 0
    page = (tmp_path / "human" / "report.html").read_text()
    assert page.count("<video") >= 4
    assert "not there any more" not in page
    assert "memory:" not in page
