"""Clips inside a page, decoded again."""

import base64
import io
import re
from pathlib import Path

import av
import pytest
import torch

from generator.video import read_video, write_video
from reward.reports.clips import MOST_BYTES, PAGE_BYTES, bytes_a_clip, read_shown, video_element


def decoded(element: str) -> tuple[list, float]:
    content = base64.b64decode(re.search(r'src="data:video/webm;base64,([^"]+)"', element).group(1))
    with av.open(io.BytesIO(content)) as container:
        rate = float(container.streams.video[0].average_rate)
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)], rate


def test_a_clip_has_the_frames_colours_and_speed_that_it_was_given():
    video = torch.full((3, 5, 16, 24), -1.0)
    video[0, 2:] = 1.0
    element = video_element(video, 8.0, "a red light")
    frames, rate = decoded(element)
    assert rate == pytest.approx(8.0)
    assert len(frames) == 5
    assert frames[0].shape == (16 * 8, 24 * 8, 3)
    assert frames[0].max() < 30
    red, green, blue = frames[4][50, 50]
    assert red > 220
    assert max(green, blue) < 35
    for attribute in ("controls", "loop", "muted", "autoplay", "playsinline", 'aria-label="a red light"'):
        assert attribute in element


def test_noise_is_made_small_enough_and_odd_sides_are_taken():
    noise = torch.rand(3, 24, 191, 333, generator=torch.Generator().manual_seed(0)) * 2 - 1
    large, small = (len(video_element(noise, 24.0, most_bytes=most)) for most in (10**9, 20_000))
    assert small < 20_000 * 4 / 3 + 20_000 < large  # the poster and the tag are beside it
    frames, _ = decoded(video_element(noise, 24.0, most_bytes=20_000))
    assert len(frames) == 24


def test_the_clips_of_a_page_share_its_bytes():
    assert bytes_a_clip(1) == MOST_BYTES
    assert bytes_a_clip(210) * 210 <= PAGE_BYTES


def test_large_files_are_reduced_while_they_are_read(tmp_path: Path) -> None:
    ramp = torch.linspace(-1, 1, 400).expand(3, 5, 200, 400).contiguous()
    write_video(tmp_path / "large.mp4", ramp, 8)
    shown, fps = read_shown(tmp_path / "large.mp4")
    assert (shown.shape, fps) == ((3, 5, 96, 192), 8.0)
    assert (shown - torch.linspace(-1, 1, 192)).abs().mean() < 0.03
    write_video(tmp_path / "small.mp4", ramp[..., :64, :64], 8)
    assert torch.equal(read_shown(tmp_path / "small.mp4")[0], read_video(tmp_path / "small.mp4")[0])
