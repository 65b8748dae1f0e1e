"""Parts of long videos are read without the rest; animations of videos."""

import io

import pytest
import torch
from PIL import Image, ImageSequence

from generator.video import clip_shape, read_clip, read_video, resample, video_shape, write_video
from generator.video_files.animation import animated_gif, side_by_side
from generator.video_files.decoding import VideoReader


@pytest.fixture(scope="module")
def long_video(tmp_path_factory):
    """70 seconds at 8 frames a second; its brightness rises all the time, and x264 has a key frame every 250 frames."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    write_video(path, torch.linspace(-1, 1, 560)[None, :, None, None].expand(3, 560, 16, 16), 8)
    return path


@pytest.fixture
def decoded(monkeypatch):
    """Counts the frames that are decoded."""
    found = []
    raw_frames = VideoReader.raw_frames

    def watched(self, *arguments):
        for stamped in raw_frames(self, *arguments):
            found.append(stamped)
            yield stamped

    monkeypatch.setattr(VideoReader, "raw_frames", watched)
    return found


@pytest.fixture
def converted(monkeypatch):
    """Counts the frames whose pixels are made."""
    found = []
    picture = VideoReader.picture
    monkeypatch.setattr(VideoReader, "picture", lambda *words: (found.append(words), picture(*words))[1])
    return found


@pytest.mark.parametrize("start", [0.0, 3.9, 33.25, 64.0, 69.5])
@pytest.mark.parametrize("rate", [8.0, 3.0])
def test_a_part_is_that_of_the_whole_video_and_little_else_is_decoded(
    long_video, decoded, converted, start, rate
):
    whole = resample(*read_video(long_video), 9, 16, 16, rate, start)
    assert len(converted) == 560
    decoded.clear()
    converted.clear()
    clip = read_clip(long_video, 9, 16, 16, rate, start)
    assert torch.equal(clip, whole)
    assert len(decoded) < 250 + 9 * 8 / rate + 20
    assert len(converted) <= 9


def test_long_videos_are_believed_their_duration(long_video, decoded):
    assert clip_shape(long_video) == (560, 16, 16, 8.0)
    assert len(decoded) == 1
    decoded.clear()
    assert video_shape(long_video) == (560, 16, 16, 8.0)
    assert len(decoded) == 560


def test_short_videos_are_measured(tmp_path, decoded):
    write_video(tmp_path / "short.mp4", torch.zeros(3, 20, 16, 16), 8)
    assert clip_shape(tmp_path / "short.mp4") == video_shape(tmp_path / "short.mp4") == (20, 16, 16, 8.0)


@pytest.mark.parametrize(
    ("size", "fps", "expected"),
    [((5, 32, 48), 8, (5, 32, 48)), ((81, 16, 24), 16, (27, 16, 24)), ((3, 100, 900), 24, (3, 34, 300))],
)
def test_a_gif_shows_a_video_within_its_limits_at_its_own_speed(size, fps, expected):
    video = (torch.arange(size[0]) / 50 - 0.9)[None, :, None, None].expand(3, *size)
    content, height, width = animated_gif(video, fps)
    image = Image.open(io.BytesIO(content))
    frames = list(ImageSequence.Iterator(image))
    assert (image.n_frames, height, width) == expected
    assert image.size == (width, height)
    assert image.info["loop"] == 0
    seconds = (
        sum(frame.info["duration"] for frame in ImageSequence.Iterator(Image.open(io.BytesIO(content))))
        / 1000
    )
    assert seconds == pytest.approx(size[0] / fps, abs=0.02)
    stride = size[0] // expected[0]
    for index in (0, expected[0] - 1):
        image.seek(index)
        shown = image.convert("RGB").getpixel((width // 2, height // 2))
        assert shown == pytest.approx([(video[0, index * stride, 0, 0].item() + 1) * 127.5] * 3, abs=2)
    assert frames


def test_the_shorter_of_two_videos_side_by_side_holds_its_last_frame():
    left, right = torch.zeros(3, 2, 4, 6), torch.full((3, 4, 4, 5), -1.0)
    left[:, 1] = 0.5
    both = side_by_side(left, right)
    assert both.shape == (3, 4, 4, 6 + 4 + 5)
    assert both[0, :, 0, 0].tolist() == [0, 0.5, 0.5, 0.5]
    assert (both[..., 6:10] == 1).all()
    assert (both[..., 10:] == -1).all()
