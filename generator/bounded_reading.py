"""Reading of videos of any size without taking more memory than was said."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor

from generator.video import read_resized, read_video, video_shape

PIXELS = 2**25
"""Pixels of all frames together of a video that is read whole: 400 MB in float32."""


def read_within(path: str | Path, pixels: int = PIXELS) -> tuple[Tensor, float]:
    """A whole video as `read_video` gives it; its frames are reduced where there are too many pixels.

    Args:
        path: as in `read_video`.
        pixels: most pixels of all frames together.

    Returns:
        The video `[3, frames, height, width]` in [-1, 1] and its frames per second.

    Raises:
        InputError: as `read_video`.
    """
    shape = video_shape(path)
    scale = math.sqrt(pixels / (shape.num_frames * shape.height * shape.width))
    if scale >= 1:
        return read_video(path)

    def smaller(height: int, width: int) -> tuple[int, int]:
        return max(1, int(height * scale)), max(1, int(width * scale))

    video, fps = read_resized(path, smaller)
    return video.float().div_(127.5).sub_(1.0), fps
