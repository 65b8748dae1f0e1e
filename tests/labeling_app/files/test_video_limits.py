"""Small files that decode to hours or to huge frames."""

from __future__ import annotations

import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from alignment import cli
from generator.output import InputError
from generator.video_files.decoding import VideoReader, opened_video
from labeling_app.files.candidates import inspect_video
from labeling_app.files.video_limits import MAXIMUM_FRAMES, MAXIMUM_PIXELS, MAXIMUM_SECONDS, DecodingBudget
from labeling_app.store.task_images import inspect_image


def write(path: Path, width: int, height: int, moments: list[float]) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=8, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        image = np.zeros((height, width, 3), np.uint8)
        for moment in moments:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(moment * 90_000), Fraction(1, 90_000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("width", "height", "moments"),
    [(12_000, 64, [0.0]), (64, 64, [0.0, 0.125, 2 * 3600.0])],
    ids=["huge", "hours"],
)
def test_a_tiny_file_of_huge_frames_or_hours_is_refused_at_once(
    tmp_path: Path, width: int, height: int, moments: list[float]
) -> None:
    path = write(tmp_path / "bomb.mp4", width, height, moments)
    assert path.stat().st_size < 100_000
    begin = time.process_time()
    with pytest.raises(InputError, match="too large to be ranked"):
        inspect_video(path)
    assert time.process_time() - begin < 1


def test_frames_and_pixels_are_counted_whatever_the_header_says(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", 64, 64, [0.0, 0.125])
    with opened_video(path) as reader:
        assert isinstance(reader, VideoReader)
        budget = DecodingBudget(path, reader)
        for number in range(MAXIMUM_FRAMES):
            budget.spend(Fraction(number, 240), 64, 64)
        with pytest.raises(InputError, match="36000 frames"):
            budget.spend(Fraction(1), 64, 64)
        grows = DecodingBudget(path, reader)
        frame = 8192 * 8192
        for _ in range(MAXIMUM_PIXELS // frame):
            grows.spend(Fraction(1), 8192, 8192)
        with pytest.raises(InputError, match="pixels in all"):
            grows.spend(Fraction(1), 8192, 8192)
        with pytest.raises(InputError, match="8200x64"):
            DecodingBudget(path, reader).spend(Fraction(1), 64, 8200)
        with pytest.raises(InputError, match="601 seconds"):
            DecodingBudget(path, reader).spend(Fraction(MAXIMUM_SECONDS + 1), 64, 64)


def test_a_film_whose_first_frame_is_huge_is_no_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="12000x64 pixels"):
        inspect_image(write(tmp_path / "bomb.mp4", 12_000, 64, [0.0]))


def test_a_bomb_among_candidates_imports_nothing_or_is_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, colour in (("a", 64), ("b", 96)):
        write(tmp_path / f"{name}.mp4", colour, 64, [0.0, 0.125])
    write(tmp_path / "bomb.mp4", 12_000, 64, [0.0])
    rows = [f'{{"file_name": "{name}.mp4", "prompt": "p"}}\n' for name in ("a", "b", "bomb")]
    (tmp_path / "metadata.jsonl").write_text("".join(rows))
    command = ["label", "import", "--db", str(tmp_path / "labels.db"), "--videos", str(tmp_path)]
    assert cli.main(command) == 2
    assert "bomb.mp4 is too large" in capsys.readouterr().err
    assert not list(tmp_path.glob("labels*"))
    assert cli.main([*command, "--skip_bad"]) == 0
    assert "1 new task(s)" in capsys.readouterr().out
