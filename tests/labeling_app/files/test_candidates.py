"""Candidates into tasks."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from generator.output import InputError
from labeling_app.campaigns.campaigns import add_campaign
from labeling_app.campaigns.demonstrations import add_library
from labeling_app.files.candidates import import_tasks, inspect_video
from labeling_app.store.store import Store


@pytest.fixture
def copied(candidates: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(candidates, tmp_path / "copied"))


def write_lines(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_videos_of_a_prompt_make_one_task(store: Store, candidates: Path) -> None:
    summary = import_tasks(store, candidates, campaign="main")
    assert (summary.added, summary.known, summary.problems) == (12, 0, ())
    task = store.tasks("main")[3]
    assert task.prompt == "a red circle moves right, take 3"
    assert [Path(video.media.path).name for video in task.videos] == [
        f"secret-model-003-{index}.mp4" for index in range(4)
    ]
    media = task.videos[0].media
    assert (media.fps, media.num_frames, media.width, media.height) == (8.0, 8, 64, 64)
    assert "003" not in media.id


def test_importing_twice_adds_nothing_even_from_a_copy(store: Store, candidates: Path, copied: Path) -> None:
    import_tasks(store, candidates, campaign="main")
    for again in (candidates, copied):
        summary = import_tasks(store, again, campaign="main")
        assert (summary.added, summary.known) == (0, 12)
    assert len(store.tasks("main")) == 12


def test_groups_split_a_prompt_and_folders_are_put_together(store: Store, copied: Path) -> None:
    names = sorted(path.name for path in copied.glob("*.mp4"))
    rows = [{"file_name": n, "prompt": "p", "group": i // 2} for i, n in enumerate(names[:4])]
    write_lines(copied / "metadata.jsonl", list(rows))
    import_tasks(store, copied, campaign="groups")
    assert [len(task.videos) for task in store.tasks("groups")] == [2, 2]
    other = copied.parent / "other"
    other.mkdir()
    for folder, name in ((copied, names[0]), (other, names[1])):
        if folder is other:
            shutil.copy(copied / name, other / name)
        write_lines(folder / "metadata.jsonl", [{"file_name": name, "prompt": "p"}])
    import_tasks(store, [copied, other], campaign="models")
    (task,) = store.tasks("models")
    assert [Path(video.media.path).parent.name for video in task.videos] == ["copied", "other"]


def test_a_rankings_file_becomes_tasks(store: Store, copied: Path) -> None:
    names = sorted(path.name for path in copied.glob("*.mp4"))[:3]
    rows = [
        {"prompt": "p \u2028 q", "videos": names, "ranks": [1, 2, 3], "annotator": who} for who in ("a", "b")
    ]
    path = copied / "rankings.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert import_tasks(store, path, campaign="main").added == 1
    assert store.tasks("main")[0].prompt == "p \u2028 q"


def test_bad_videos_are_named_and_nothing_is_imported_unless_asked(store: Store, copied: Path) -> None:
    (copied / "secret-model-000-1.mp4").unlink()
    (copied / "secret-model-001-0.mp4").write_bytes(b"not a video")
    for index in (1, 2, 3):
        (copied / f"secret-model-002-{index}.mp4").unlink()
    with pytest.raises(
        InputError, match=r"000-1\.mp4 does not exist.*001-0\.mp4 cannot be read as a video"
    ) as error:
        import_tasks(store, copied, campaign="main")
    assert "Nothing was imported" in str(error.value)
    assert store.campaigns() == []
    summary = import_tasks(store, copied, campaign="main", skip_bad=True)
    assert summary.added == 11
    assert len(summary.problems) == 6
    assert [len(task.videos) for task in store.tasks("main")][:3] == [3, 3, 4]


def test_a_truncated_video_is_named(copied: Path) -> None:
    path = copied / "secret-model-000-0.mp4"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(InputError, match=r"is broken: its end is missing"):
        inspect_video(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "No prompts"),
        ([{"file_name": "a.mp4"}], "is missing"),
        ([["a.mp4"]], "a JSON object was expected"),
        ([{"file_name": "secret-model-000-0.mp4", "prompt": "alone"}], "1 video"),
        (
            [{"file_name": f"secret-model-{i // 4:03d}-{i % 4}.mp4", "prompt": "p"} for i in range(10)],
            "10 video",
        ),
        ([{"file_name": f"secret-model-000-{i}.mp4", "prompt": " "} for i in range(2)], "empty prompt"),
        ([{"file_name": "secret-model-000-0.mp4", "prompt": "p"}] * 2, "same video twice"),
    ],
)
def test_bad_metadata_is_one_clear_sentence(
    store: Store, copied: Path, rows: list[object], message: str
) -> None:
    write_lines(copied / "metadata.jsonl", rows)
    with pytest.raises(InputError, match=message):
        import_tasks(store, copied, campaign="main")


def test_missing_sources_are_one_clear_sentence(store: Store, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        import_tasks(store, tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"no metadata\.jsonl"):
        import_tasks(store, tmp_path)
    (tmp_path / "x.jsonl").write_text("{broken\n")
    with pytest.raises(InputError, match=r"x\.jsonl, line 1: this is not JSON"):
        import_tasks(store, tmp_path / "x.jsonl")


def test_a_file_that_changed_after_its_import_is_refused(store: Store, copied: Path) -> None:
    import_tasks(store, copied, campaign="main")
    shutil.copy(copied / "secret-model-001-0.mp4", copied / "secret-model-000-0.mp4")
    with pytest.raises(InputError, match="has changed since it was imported"):
        import_tasks(store, copied, campaign="main")


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
def test_a_link_to_a_video_is_no_second_candidate(store: Store, copied: Path, kind: str) -> None:
    video, link = copied / "secret-model-000-0.mp4", copied / "link.mp4"
    link.symlink_to(video) if kind == "symbolic" else link.hardlink_to(video)
    write_lines(copied / "metadata.jsonl", [{"file_name": f.name, "prompt": "p"} for f in (video, link)])
    with pytest.raises(InputError, match="same video twice"):
        import_tasks(store, copied, campaign="main")


def test_a_library_has_no_hidden_files_and_no_folders(store: Store, copied: Path) -> None:
    add_campaign(store, "main")
    (copied / "._secret-model-000-0.mp4").write_bytes(b"resource fork")
    (copied / "folder.mp4").mkdir()
    assert add_library(store, "main", copied) == len(list(copied.glob("secret-*.mp4")))
