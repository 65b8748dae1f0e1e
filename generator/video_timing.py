"""Time stamps of frames: the steady rate of a film, and the frames that are nearest to moments."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

STAMP_ERROR = 0.0006
"""Seconds by which a time stamp may be off: webm notes milliseconds, and half of one is lost."""
FASTEST = 120.0
"""Frames per second, at most, to which a film of variable rate is brought."""

Picture = TypeVar("Picture")


def frame_indices(
    count: int | None, fps: float, num_frames: int, target_fps: float | None, start: float = 0.0
) -> list[int]:
    """Indices of the frames of a video of constant rate that make a clip of `num_frames` at `target_fps`.

    Args:
        count: frames in the video; None where unknown, and then indices may lie past its end.
        fps: frames per second of the video.
        num_frames: frames of the clip.
        target_fps: frames per second of the clip: frame i shows the moment `start + i / target_fps`, and after
            the end of the video its last frame. None spreads the frames evenly over the whole video.
        start: seconds to skip at the beginning; ignored where `target_fps` is None.

    Returns:
        `num_frames` non-decreasing indices.
    """
    if target_fps is None:
        if count is None:
            raise ValueError("Spreading frames over a video needs its number of frames.")
        return [math.floor(index * (count - 1) / max(num_frames - 1, 1) + 0.5) for index in range(num_frames)]
    indices = [math.floor((start + index / target_fps) * fps + 0.5) for index in range(num_frames)]
    return indices if count is None else [min(index, count - 1) for index in indices]


def frames_in_clip(num_frames: int, fps: float, target_fps: float) -> int:
    """Number of frames that a video has at another rate; a still stays one frame, however long a viewer shows it.

    Args:
        num_frames, fps: of the video.
        target_fps: the other rate.
    """
    return 1 if num_frames == 1 else max(1, math.floor(num_frames / fps * target_fps + 0.5))


def steady_rate(times: Sequence[float], stated: Iterable[float]) -> float | None:
    """Frames per second of a film whose frame i is nearest to the moment i / rate for every i; None for any other.

    Args:
        times: seconds of each frame, ascending from 0; at least two.
        stated: rates that the file states; the one that fits best is taken, before the one that the time stamps give.
    """
    stamps = np.asarray(times, np.float64)
    order = np.arange(len(stamps))
    if not stamps[-1] > 0:
        return None
    mean = (len(stamps) - 1) / float(stamps[-1])

    def error(rate: float) -> float:
        return float(np.abs(stamps - order / rate).max())

    fitting = [float(rate) for rate in stated if rate > 0 and error(rate) < 0.5 / rate]
    if fitting:
        return min(fitting, key=error)
    if round(mean) > 0 and error(round(mean)) < 2 * STAMP_ERROR:
        return float(round(mean))
    return mean if error(mean) < 0.5 / mean else None


def even_rate(times: Sequence[float], stated: Iterable[float]) -> float:
    """Frames per second to which a film of variable rate is brought: that of its fastest parts.

    It is at most `FASTEST`, and at most four times the mean, so that a still screen with a short burst of motion does
    not fill the memory.

    Args:
        times, stated: as in `steady_rate`; a stated rate that is nearly the same is taken.
    """
    gaps = np.diff(np.asarray(times, np.float64))
    gaps = gaps[gaps > 0]
    if not len(gaps):
        return 1.0
    rate = min(1.0 / float(np.quantile(gaps, 0.1)), FASTEST, 4.0 * (len(times) - 1) / float(times[-1]))
    return next((float(known) for known in stated if abs(known - rate) < 0.03 * rate), rate)


def nearer_to_later(moment: float, earlier: float, later: float) -> bool:
    """Decides between two neighbouring frames; the later one has the moment between them.

    Args:
        moment, earlier, later: seconds.
    """
    gap = later - earlier
    return moment >= earlier + gap / 2 - min(STAMP_ERROR, gap / 20)


def nearest_frames(frames: Iterable[tuple[float, Picture]], moments: Sequence[float]) -> Iterator[Picture]:
    """The frame nearest in time to each moment, the last one after the end; two frames are held, never more.

    Args:
        frames: seconds and picture, in ascending order; at least one.
        moments: seconds, in ascending order.
    """
    remaining = iter(frames)
    time, picture = next(remaining)
    following = next(remaining, None)
    for moment in moments:
        while following is not None and nearer_to_later(moment, time, following[0]):
            (time, picture), following = following, next(remaining, None)
        yield picture


def even_indices(times: Sequence[float], end: float, rate: float) -> list[int]:
    """Indices of the frames of variable rate that a film of constant rate shows, up to its end.

    Args:
        times: seconds of each frame, ascending from 0.
        end: seconds at which the last frame ends.
        rate: frames per second of the result.
    """
    moments = [index / rate for index in range(max(1, math.floor(end * rate + 0.5)))]
    return list(nearest_frames(((time, index) for index, time in enumerate(times)), moments))
