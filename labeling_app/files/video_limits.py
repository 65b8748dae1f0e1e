"""Limits on what reading a video may take: a file of a few kilobytes may decode to hours or to huge frames."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av

from generator.output import InputError
from generator.video_files.decoding import VideoReader

MAXIMUM_SIDE = 8192
MAXIMUM_SECONDS = 600
MAXIMUM_FRAMES = 36_000
MAXIMUM_PIXELS = 10**11
"""Pixels of all frames together: ten minutes of 4K with 20 frames per second."""


class DecodingBudget:
    """Limits on the decoding of one video; those of its header are checked before the first frame.

    Raises:
        InputError: the header says that a limit is passed.
    """

    def __init__(self, path: Path, reader: VideoReader) -> None:
        self.path = path
        self.frames = self.pixels = 0
        codec = reader.stream.codec_context
        seconds = Fraction(reader.container.duration or 0) / av.time_base
        self._check(seconds, codec.height, codec.width)

    def spend(self, time: Fraction, height: int, width: int) -> None:
        """Counts a frame that is shown `time` seconds after the first.

        Raises:
            InputError: with it a limit is passed.
        """
        self.frames += 1
        self.pixels += height * width
        self._check(time, height, width)

    def _check(self, seconds: Fraction, height: int, width: int) -> None:
        allowed = max(height, width) <= MAXIMUM_SIDE and seconds <= MAXIMUM_SECONDS
        if not allowed or self.frames > MAXIMUM_FRAMES or self.pixels > MAXIMUM_PIXELS:
            raise InputError(
                f"{self.path} is too large to be ranked (a frame has {width}x{height} pixels, and it lasts "
                f"{float(seconds):.0f} seconds or more): at most {MAXIMUM_SIDE} pixels a side, "
                f"{MAXIMUM_SECONDS // 60} minutes, {MAXIMUM_FRAMES} frames and {MAXIMUM_PIXELS:.0e} pixels in all."
            )
