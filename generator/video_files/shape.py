"""Size, length and rate of video files, without holding their pixels."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from generator.video_files.decoding import ImageReader, VideoReader, film_rate, opened_video
from generator.video_files.timing import even_indices


class VideoShape(NamedTuple):
    """Size and rate of a video file: frames, upright height and width in pixels, frames per second."""

    num_frames: int
    height: int
    width: int
    fps: float


def video_shape(path: str | Path) -> VideoShape:
    """Size and rate of a video file as `read_video` reads it; its pixels are not held in memory.

    Raises:
        InputError: as `read_video`.
    """
    path = Path(path)
    if not path.is_file():
        with opened_video(path):
            pass
    state = path.stat()
    return _video_shape(path.absolute(), state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _video_shape(path: Path, size: int, changed: int) -> VideoShape:
    """`video_shape` of a file that is known by its size and the time of its last change."""
    with opened_video(path) as reader:
        if isinstance(reader, ImageReader):
            frames = list(reader.frames())
            height, width = frames[0].pixels.shape[:2]
            times = [frame.time for frame in frames]
            end = float(times[-1]) + frames[-1].duration
        else:
            times, end, height, width = [], 0.0, 0, 0
            for time, raw in reader.raw_frames():
                if not times:
                    height, width = reader.picture(raw).shape[:2]
                times.append(time)
                end = float(time) + float((raw.duration or 0) * reader.stream.time_base)
        fps, indices = steady_frames(reader, times, end)
    return VideoShape(len(indices or times), height, width, fps)


LONG_SECONDS = 60.0
"""Videos that state at least this duration are believed it where only parts of them are read."""


def clip_shape(path: str | Path) -> VideoShape:
    """`video_shape` where clips are taken of a video: long ones are not read to their end, but believed the duration
    that they state.

    Raises:
        InputError: as `read_video`, though of a long video only the first frame is read.
    """
    with opened_video(path) as reader:
        seconds = 0.0 if isinstance(reader, ImageReader) else reader.stated_seconds
        if seconds >= LONG_SECONDS and isinstance(reader, VideoReader) and reader.stated_rates:
            height, width = next(reader.frames()).pixels.shape[:2]
            rate = reader.stated_rates[0]
            return VideoShape(max(2, round(seconds * rate)), height, width, rate)
    return video_shape(path)


def steady_frames(
    reader: VideoReader | ImageReader, times: Sequence[Fraction], end: float
) -> tuple[float, list[int] | None]:
    """Frames per second, and the frames that are shown at that rate where they are not all of them once.

    Args:
        times: seconds of each frame.
        end: seconds at which the last frame ends; 0 where that is unknown.
    """
    still = isinstance(reader, ImageReader) and len(times) == 1
    fps, steady = (1.0, True) if still else film_rate(times, reader.stated_rates)
    if steady:
        return fps, None
    seconds = [float(time) for time in times]
    return fps, even_indices(seconds, max(end, seconds[-1] + 1 / fps), fps)
