"""Small animations of videos for pages and trackers, and videos side by side."""

from __future__ import annotations

import io
import math

import torch
from PIL import Image
from torch import Tensor

GIF_FRAMES, GIF_SIDE = 32, 416
"""Most frames and longest side of an animation; larger videos are shown at a fraction of their rate and size."""


def animated_gif(
    video: Tensor, fps: float, most_frames: int = GIF_FRAMES, longest_side: int = GIF_SIDE
) -> tuple[bytes, int, int]:
    """A video as a GIF that repeats without end.

    Every n-th frame is kept, and sides are divided by m, with the smallest whole n and m that fit the limits; n times
    as long is each frame shown.

    Args:
        video: `[3, frames, height, width]` in [-1, 1].
        fps: frames per second.
        most_frames: frames of the animation, at most.
        longest_side: pixels of its longer side, at most.

    Returns:
        The file's content, its height and its width.
    """
    stride = math.ceil(video.shape[1] / most_frames)
    divisor = math.ceil(max(video.shape[2:]) / longest_side)
    pixels = (video[:, ::stride].float().clamp(-1, 1) * 127.5 + 127.5).round().to(torch.uint8).cpu()
    frames = [Image.fromarray(frame.numpy()) for frame in pixels.permute(1, 2, 3, 0).contiguous()]
    frames = [frame.reduce(divisor) for frame in frames]
    # GIF knows hundredths of a second: what one frame is short of, the next one makes up for.
    ends = [round(100 * stride * (index + 1) / fps) for index in range(len(frames))]
    durations = [10 * max(1, end - start) for start, end in zip([0, *ends], ends)]
    file = io.BytesIO()
    frames[0].save(
        file, format="GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0, disposal=1
    )
    return file.getvalue(), frames[0].height, frames[0].width


def side_by_side(left: Tensor, right: Tensor, gap: int = 4) -> Tensor:
    """Two videos `[3, frames, height, width]` of one size in one, with `gap` white pixels between them.

    The shorter one holds its last frame.
    """
    count = max(left.shape[1], right.shape[1])
    held = [video[:, [min(frame, video.shape[1] - 1) for frame in range(count)]] for video in (left, right)]
    between = left.new_ones(3, count, left.shape[2], gap)
    return torch.cat([held[0], between, held[1]], dim=3)
