"""Clips of one long video: cut, measured, filtered and written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from alignment.preparation.cuts import CutFinder, Scene, scenes_between, split_long
from alignment.preparation.duplicates import clip_hash
from generator.output import InputError
from generator.video import write_frames
from generator.video_files.decoding import ImageReader, film_rate, opened_video
from generator.video_files.timing import nearest_frames
from reward.measures import SIDE, motion_and_flicker

MEASURED_RATE, MEASURED_FRAMES = 8.0, 33
"""Motion and flicker are measured at 8 frames a second, over 4 seconds from the middle at most."""

REASONS = {
    "its shorter side": "too small",
    "it lasts": "too short",
    "its motion": "too still",
    "its flicker": "flicker",
    "it is a near-duplicate": "near-duplicate",
}
"""Kinds of reasons for which a part is not kept, by the words that the reason begins with."""


@dataclass(frozen=True)
class Limits:
    """Limits of clips that are kept.

    Attributes:
        min_seconds, max_seconds: duration; longer scenes are divided.
        min_side: pixels of the shorter side.
        max_side: pixels of the shorter side to which larger videos are reduced; 0 leaves all as they are.
        min_motion: speed of the fastest parts, in shorter sides a second (`reward.measures`).
        max_flicker: changes that no motion explains, of the pixel range.
        detector, adaptive_threshold, content_threshold: of `CutFinder`.
        margin: frames left out on either side of a cut.
    """

    min_seconds: float = 2.0
    max_seconds: float = 10.0
    min_side: int = 240
    max_side: int = 0
    min_motion: float = 0.02
    max_flicker: float = 0.1
    detector: str = "both"
    adaptive_threshold: float = 3.0
    content_threshold: float = 27.0
    margin: int = 1


@dataclass
class Part:
    """A part of a video, kept as a clip or not.

    Attributes:
        source: name of the long video.
        start, end: seconds in it.
        num_frames, fps, height, width: of the clip.
        motion, flicker: measures; None where they were not needed.
        hash: of `clip_hash`; empty where there is no clip.
        file_name: of the clip; empty where there is none.
        reason: why there is none.
    """

    source: str
    start: float
    end: float
    num_frames: int
    fps: float
    height: int
    width: int
    motion: float | None = None
    flicker: float | None = None
    hash: str = ""
    file_name: str = ""
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """The fields for a line of JSON, numbers rounded."""
        rounded = {
            key: round(value, 4) if isinstance(value, float) else value for key, value in asdict(self).items()
        }
        return {key: value for key, value in rounded.items() if value not in (None, "")}


@dataclass(frozen=True)
class _Film:
    """Frames of a video: time stamps in seconds, steady rate, size and cuts."""

    times: list[float]
    fps: float
    height: int
    width: int
    cuts: list[int]


def clips_of(path: Path, name: str, number: int, folder: Path, limits: Limits) -> list[Part]:
    """Cuts a video and writes the clips that are within the limits.

    Args:
        path: the video.
        name: in records.
        number: of the video, with which the names of its clips begin.
        folder: the clips go there.

    Raises:
        InputError: the video cannot be read.
    """
    film = _look(path, limits)
    parts = []
    for scene in scenes_between(film.cuts, len(film.times), limits.margin):
        most = max(1, int(limits.max_seconds * len(film.times) / _duration(film)))
        parts += [(each, _part(name, film, each)) for each in split_long(scene, most)]
    clip = 0
    for scene, part in parts:
        part.reason = _too_small(part, limits)
        if part.reason:
            continue
        _measure(path, film, scene, part)
        part.reason = _too_still(part, limits)
        if part.reason:
            continue
        part.file_name = f"{number:05d}-{clip:04d}.mp4"
        clip += 1
        size = clip_size(part.height, part.width, limits.max_side)
        part.height, part.width = size
        part.num_frames = write_frames(
            folder / part.file_name,
            (_tensor(pixels, *size) for pixels in _steady(path, film, scene, film.fps)),
            film.fps,
        )
    return [part for _, part in parts]


def clip_size(height: int, width: int, max_side: int) -> tuple[int, int]:
    """Height and width of a clip: the shorter side at most `max_side` (0 for any), both even, as 4:2:0 wants them."""
    scale = min(1.0, max_side / min(height, width)) if max_side else 1.0
    return max(2, round(height * scale) // 2 * 2), max(2, round(width * scale) // 2 * 2)


def _look(path: Path, limits: Limits) -> _Film:
    """Decodes a video once, for its cuts and time stamps."""
    times: list[Fraction] = []
    sizes = (0, 0)
    with opened_video(path) as reader:
        if isinstance(reader, ImageReader):
            raise InputError(f"{path} is an image, but a video was expected: remove it.")
        rates = reader.stated_rates
        finder = CutFinder(limits.detector, limits.adaptive_threshold, limits.content_threshold)
        for frame in reader.frames():
            if not times:
                sizes = frame.pixels.shape[0], frame.pixels.shape[1]
            times.append(frame.time)
            finder.add(frame.pixels)
    fps, _ = film_rate(times, rates)
    return _Film([float(time) for time in times], fps, *sizes, finder.cuts())


def _duration(film: _Film) -> float:
    """Seconds from the first frame to the end of the last."""
    return film.times[-1] + 1 / film.fps


def _part(name: str, film: _Film, scene: Scene) -> Part:
    end = film.times[scene.last] if scene.last < len(film.times) else _duration(film)
    start = film.times[scene.first]
    return Part(name, start, end, scene.last - scene.first, film.fps, film.height, film.width)


def _too_small(part: Part, limits: Limits) -> str:
    """The reason for which a part is not kept, from its length and size; empty where it may be."""
    seconds, side = part.end - part.start, min(part.height, part.width)
    if side < limits.min_side:
        return f"its shorter side is {side} pixels, below {limits.min_side}"
    # Half a frame short is not short.
    if seconds + 0.5 / part.fps < limits.min_seconds:
        return f"it lasts {seconds:.2f} seconds, below {limits.min_seconds:g}"
    return ""


def _too_still(part: Part, limits: Limits) -> str:
    """The reason for which a part is not kept, from its measures; empty where it is."""
    assert part.motion is not None
    assert part.flicker is not None
    if part.motion < limits.min_motion:
        return f"its motion is {part.motion:.4f} shorter sides a second, below {limits.min_motion:g}"
    if part.flicker > limits.max_flicker:
        return f"its flicker is {part.flicker:.4f}, above {limits.max_flicker:g}"
    return ""


def _measure(path: Path, film: _Film, scene: Scene, part: Part) -> None:
    """Notes motion, flicker and the hash of a part."""
    rate = min(MEASURED_RATE, film.fps)
    frames = list(_steady(path, film, scene, rate, reduced=True))
    middle = max(0, (len(frames) - MEASURED_FRAMES) // 2)
    measured = frames[middle : middle + MEASURED_FRAMES]
    video = torch.stack([_tensor(frame, *frame.shape[:2]) for frame in measured], 1)[None]
    motion, flicker = motion_and_flicker(video, rate)
    part.motion, part.flicker = float(motion), float(flicker)
    part.hash = clip_hash([frames[len(frames) * sixth // 6] for sixth in (1, 3, 5)])


def _steady(
    path: Path, film: _Film, scene: Scene, rate: float, reduced: bool = False
) -> Iterator[np.ndarray]:
    """Frames of a scene at a constant rate, none of its neighbours among them.

    Args:
        reduced: to a shorter side of 64 pixels.
    """
    start, last = film.times[scene.first], film.times[scene.last - 1]
    count = max(1, int((last - start) * rate + 0.5) + 1)
    moments = [min(last, start + index / rate) for index in range(count)]
    inside = 0.25 / film.fps
    with opened_video(path) as reader:
        stamped = (
            (float(frame.time), _reduced(frame.pixels) if reduced else frame.pixels)
            for frame in reader.frames(start)
            if start - inside < float(frame.time) < last + inside
        )
        needed = islice(stamped, scene.last - scene.first)  # decoding ends with the scene
        yield from nearest_frames(needed, moments)


def _reduced(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = min(1.0, SIDE / min(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def _tensor(pixels: np.ndarray, height: int, width: int) -> Tensor:
    """A frame `[3, height, width]` in [-1, 1]; one pixel more than the size is cut off, larger ones are reduced."""
    if pixels.shape[0] - height > 1 or pixels.shape[1] - width > 1:
        pixels = np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))
    return torch.from_numpy(pixels[:height, :width].copy()).permute(2, 0, 1).float() / 127.5 - 1
