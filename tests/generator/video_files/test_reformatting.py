"""Conversion of frames: threads for large ones alone, the same pixels either way."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
import pytest

from generator.video_files import reformatting
from generator.video_files.colour import rgb_pixels


def frame_of(height: int, width: int) -> av.VideoFrame:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")


class Recorder:
    """A frame that notes what it is asked for."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width

    def reformat(self, **how: Any) -> dict[str, Any]:
        return how


@pytest.mark.parametrize(
    ("size", "target", "one"),
    [((32, 32), {}, True), ((480, 832), {}, False), ((32, 32), {"height": 480, "width": 832}, False)],
)
def test_small_frames_are_converted_in_one_thread(
    size: tuple[int, int], target: dict[str, int], one: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {"format": "rgb24", **target}
    monkeypatch.setattr(reformatting, "_HAS_THREADS", True)
    found = reformatting.reformatted(Recorder(*size), **expected)
    assert found == expected | ({"threads": 1} if one else {})
    monkeypatch.setattr(reformatting, "_HAS_THREADS", False)
    assert reformatting.reformatted(Recorder(*size), **expected) == expected


@pytest.mark.parametrize(("height", "width"), [(32, 48), (480, 832)])
def test_pixels_do_not_depend_on_threads(height: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for side in (1, 10_000):
        monkeypatch.setattr(reformatting, "SMALL_SIDE", side)
        found.append(rgb_pixels(frame_of(height, width), height, width))
    assert np.array_equal(*found)
    assert found[0].std() > 10
