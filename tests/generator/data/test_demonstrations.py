"""Demonstration folders: written and read back, and every bad video named."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import pytest
import torch
from datasets import Video, load_dataset

from generator.data.demonstrations import (
    Demonstration,
    mix_captions,
    read_demonstrations,
    write_demonstrations,
)
from generator.output import InputError
from generator.video import read_video, write_video

PROMPTS = ["a black screen", "a grey screen", "a white screen"]
LEVELS = [-1.0, 0.0, 1.0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    videos = (torch.full((3, 4, 32, 48), level) for level in LEVELS)
    write_demonstrations(
        tmp_path / "set", videos, PROMPTS, fps=8, extra=[{"seed": seed} for seed in range(3)]
    )
    return tmp_path / "set"


def test_what_is_written_is_read_back(folder: Path) -> None:
    demonstrations = read_demonstrations(folder)
    assert [item.prompt for item in demonstrations] == PROMPTS
    for item, level in zip(demonstrations, LEVELS, strict=True):
        video, fps = read_video(item.video)
        assert fps == 8
        assert video.shape == (3, 4, 32, 48)
        assert (video - level).abs().max() < 0.02
    rows = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert rows[1] == {"file_name": "0001.mp4", "prompt": "a grey screen", "seed": 1}


def test_hugging_face_datasets_reads_the_folder(folder: Path, tmp_path: Path) -> None:
    dataset = load_dataset(
        "videofolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache")
    )
    dataset = dataset.cast_column("video", Video(decode=False))
    assert dataset["prompt"][:] == PROMPTS
    assert Path(dataset[2]["video"]["path"]).name == "0002.mp4"


def test_every_bad_video_is_named(folder: Path) -> None:
    (folder / "0000.mp4").unlink()
    (folder / "0002.mp4").write_bytes(b"garbage" * 100)
    with pytest.raises(InputError, match=r"2 of 3 videos(.|\n)*0000\.mp4(.|\n)*0002\.mp4"):
        read_demonstrations(folder)


def test_bad_videos_can_be_left_out_with_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / "0000.mp4").unlink()
    with caplog.at_level(logging.WARNING):
        demonstrations = read_demonstrations(folder, skip_bad=True)
    assert demonstrations == [Demonstration(folder / f"000{i}.mp4", PROMPTS[i]) for i in (1, 2)]
    assert "0000.mp4" in caplog.text


def test_a_set_without_a_usable_video_is_an_error(folder: Path) -> None:
    for video in folder.glob("*.mp4"):
        video.unlink()
    with pytest.raises(InputError, match="no usable demonstration"):
        read_demonstrations(folder, skip_bad=True)
    (folder / "metadata.jsonl").write_text("")
    with pytest.raises(InputError, match="is empty"):
        read_demonstrations(folder)


def test_a_folder_without_metadata_and_a_wrong_line_are_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_demonstrations(tmp_path / "nowhere")
    with (folder / "metadata.jsonl").open("a") as metadata:
        metadata.write('{"file_name": "0003.mp4"}\n')
    with pytest.raises(InputError, match=r"metadata\.jsonl, line 4.*`prompt`"):
        read_demonstrations(folder)
    (folder / "metadata.jsonl").unlink()
    with pytest.raises(InputError, match=r"holds no metadata\.jsonl"):
        read_demonstrations(folder)


def test_an_existing_folder_is_never_overwritten(folder: Path) -> None:
    before = sorted((path.name, path.read_bytes()) for path in folder.iterdir())
    with pytest.raises(InputError, match="not empty"):
        write_demonstrations(folder, torch.zeros(1, 3, 2, 16, 16), ["new"], fps=8)
    assert sorted((path.name, path.read_bytes()) for path in folder.iterdir()) == before


def test_too_few_videos_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shorter"):
        write_demonstrations(tmp_path / "set", torch.zeros(1, 3, 2, 16, 16), ["one", "two"], fps=8)
    assert not any(tmp_path.iterdir())


def test_files_that_programs_hide_are_no_demonstrations_and_linked_folders_are(tmp_path: Path) -> None:
    folder, outside = tmp_path / "d", tmp_path / "outside"
    for name in ("d/a", "d/.ipynb_checkpoints/a-checkpoint", "outside/b"):
        write_video(tmp_path / f"{name}.mp4", torch.zeros(3, 3, 16, 16), fps=8)
        (tmp_path / f"{name}.txt").write_text(f"prompt of {name}")
    (folder / "._a.mp4").write_bytes(os.urandom(4096))
    (folder / "._a.txt").write_bytes(b"\xff\xfe\x00")
    (folder / "more").symlink_to(outside)
    (outside / "circle").symlink_to(folder)
    found = {d.video.relative_to(folder).as_posix(): d.prompt for d in read_demonstrations(folder)}
    assert found == {"a.mp4": "prompt of d/a", "more/b.mp4": "prompt of outside/b"}
    footage = read_demonstrations(folder, skip_bad=True, require_prompts=False)
    assert [d.video.name for d in footage] == ["a.mp4", "b.mp4"]


def test_a_caption_keeps_white_space_that_is_no_line_break(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", torch.zeros(3, 3, 16, 16), fps=8)
    (tmp_path / "a.txt").write_bytes("\ufeffa\u2028red\r\n  circle\u3000here \n".encode())
    assert read_demonstrations(tmp_path)[0].prompt == "a\u2028red circle\u3000here"


def test_a_share_of_the_videos_keeps_its_caption_and_the_others_have_their_original_prompt() -> None:
    videos = [Demonstration(Path(f"{n}.mp4"), f"caption {n}", original=f"original {n}") for n in range(2000)]
    mixed = mix_captions(videos, 0.95, seed=3)
    originals = [n for n, each in enumerate(mixed) if each.prompt == f"original {n}"]
    assert len(originals) == pytest.approx(100, abs=3 * (2000 * 0.95 * 0.05) ** 0.5)
    assert all(each.prompt == f"caption {n}" for n, each in enumerate(mixed) if n not in originals)
    assert mix_captions(videos, 0.95, seed=3) == mixed
    assert mix_captions(videos, 0.95, seed=4) != mixed
    # A larger share takes originals away and adds none, and videos before a place do not change it.
    fewer = [n for n, each in enumerate(mix_captions(videos, 0.97, seed=3)) if each.prompt.startswith("orig")]
    assert set(fewer) < set(originals)
    assert mix_captions(videos[:500], 0.95, seed=3) == mixed[:500]
    assert mix_captions(videos, 1.0, seed=3) == videos
    assert [each.prompt for each in mix_captions(videos, 0.0, seed=3)] == [each.original for each in videos]
    with pytest.raises(InputError, match="no line has an `original_prompt`"):
        mix_captions([Demonstration(Path("a.mp4"), "a")], 0.95, seed=0)


def test_an_original_prompt_that_is_no_text_is_refused(folder: Path) -> None:
    line = {"file_name": "0000.mp4", "prompt": "long", "original_prompt": 3}
    (folder / "metadata.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(InputError, match=r"line 1: `original_prompt` is 3, but must be a text"):
        read_demonstrations(folder)
