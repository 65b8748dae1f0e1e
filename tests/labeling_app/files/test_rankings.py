"""Rankings files."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from generator.output import InputError
from labeling_app.files.rankings import export_rankings
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import revise, skip, submit


def judge(store: Store, name: str, count: int) -> None:
    user = store.add_user(name)
    for _ in range(count):
        task = assignment.next_task(store, user)
        assert task is not None
        submit(store, user, task.assignment, {"overall": [p // 2 + 1 for p in task.permutation]}, 3.25)


def test_the_file_follows_the_data_contract(filled: Store, tmp_path: Path) -> None:
    judge(filled, "ada", 2)
    path = tmp_path / "deep" / "rankings.jsonl"
    assert export_rankings(filled, "main", path) == 2
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert list(rows[0]) == ["prompt", "videos", "ranks", "dimension", "annotator", "seconds", "created_at"]
    for number, row in enumerate(rows):
        assert row["prompt"] == f"a red circle moves right, take {number}"
        assert row["ranks"] == [1, 1, 2, 2]
        assert (row["dimension"], row["annotator"], row["seconds"]) == ("overall", "ada", 3.25)
        assert abs((datetime.now(UTC) - datetime.fromisoformat(row["created_at"])).total_seconds()) < 60
        videos = [(path.parent / video).resolve() for video in row["videos"]]
        assert [video.name for video in videos] == [f"secret-model-{number:03d}-{i}.mp4" for i in range(4)]
        assert all(video.is_file() for video in videos)
        assert not any(Path(video).is_absolute() for video in row["videos"])


def test_skips_and_old_versions_are_left_out(filled: Store, tmp_path: Path) -> None:
    ada = filled.add_user("ada")
    first = assignment.next_task(filled, ada)
    assert first is not None
    submit(filled, ada, first.assignment, {"overall": [1, 2, 3, 4]}, 1.0)
    revise(filled, ada, first.assignment, {"overall": [1, 1, 1, 1]}, 1.0)
    second = assignment.next_task(filled, ada)
    assert second is not None
    skip(filled, ada, second.assignment, "no", 1.0)
    assert export_rankings(filled, "main", tmp_path / "rankings.jsonl") == 1
    assert json.loads((tmp_path / "rankings.jsonl").read_text())["ranks"] == [1, 1, 1, 1]


def test_nothing_is_overwritten_unasked_and_nothing_is_written_without_rankings(
    filled: Store, tmp_path: Path
) -> None:
    path = tmp_path / "rankings.jsonl"
    with pytest.raises(InputError, match="no rankings yet"):
        export_rankings(filled, "main", path)
    assert not path.exists()
    judge(filled, "ada", 1)
    path.write_text("precious")
    with pytest.raises(InputError, match="--overwrite"):
        export_rankings(filled, "main", path)
    assert path.read_text() == "precious"
    with pytest.raises(InputError, match="is not a rankings file"):
        export_rankings(filled, "main", path, overwrite=True)
    assert path.read_text() == "precious"
    path.unlink()
    assert export_rankings(filled, "main", path) == 1
    assert export_rankings(filled, "main", path, overwrite=True) == 1
    assert [item.name for item in tmp_path.iterdir() if item.suffix == ".jsonl"] == ["rankings.jsonl"]
