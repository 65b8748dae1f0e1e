"""Scene cuts of a video, by PySceneDetect's detectors on frames that our own reader decodes."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from generator.output import InputError

DETECTORS = ("both", "adaptive", "content")
LEAST_CHANGE = 5.0
"""Change of a cut for the adaptive detector, at least, of 255; PySceneDetect's own 15 misses cuts between scenes that
look alike."""
SIDE = 144
"""Shorter side to which larger frames are reduced, by leaving out pixels, before cuts are looked for."""


@dataclass(frozen=True)
class Scene:
    """Part of a video between two cuts.

    Attributes:
        first, last: numbers of its first frame and of the one after its last.
    """

    first: int
    last: int


class CutFinder:
    """Finds cuts while frames pass.

    Args:
        detector: `adaptive` compares the change of a frame with that of its neighbours, so that fast camera motion is
            no cut; `content` with a fixed threshold, which also sees cuts amid fast motion; `both` takes the cuts of
            either.
        adaptive_threshold: change over the mean change of the two frames before and after.
        content_threshold: mean change of hue, saturation and luma, of 255.
        min_frames: frames between two cuts, at least.

    Raises:
        InputError: PySceneDetect is not installed.
    """

    def __init__(
        self,
        detector: str = "both",
        adaptive_threshold: float = 3.0,
        content_threshold: float = 27.0,
        min_frames: int = 15,
    ) -> None:
        adaptive, content = _detectors()
        self._detectors: list[Any] = []
        if detector in ("adaptive", "both"):
            self._detectors.append(
                adaptive(adaptive_threshold, min_scene_len=min_frames, min_content_val=LEAST_CHANGE)
            )
        if detector in ("content", "both"):
            self._detectors.append(content(content_threshold, min_scene_len=min_frames))
        self._min_frames = min_frames
        self._cuts: set[int] = set()
        self._count = 0

    def add(self, pixels: np.ndarray) -> None:
        """Looks at the next frame, uint8 RGB `[height, width, 3]`."""
        step = max(1, min(pixels.shape[:2]) // SIDE)
        bgr = np.ascontiguousarray(pixels[::step, ::step, ::-1])
        for detector in self._detectors:
            self._cuts.update(int(cut) for cut in detector.process_frame(self._count, bgr))
        self._count += 1

    def cuts(self) -> list[int]:
        """Numbers of the frames with which a new scene begins, when all frames have passed."""
        if self._count:
            for detector in self._detectors:
                self._cuts.update(int(cut) for cut in detector.post_process(self._count - 1))
        cuts: list[int] = []
        for cut in sorted(self._cuts):
            if 0 < cut < self._count and (not cuts or cut - cuts[-1] >= self._min_frames):
                cuts.append(cut)
        return cuts


def require_detectors() -> None:
    """Raises `InputError` where PySceneDetect is not installed."""
    _detectors()


def _detectors() -> tuple[Any, Any]:
    try:
        from scenedetect.detectors import AdaptiveDetector, ContentDetector
    except ImportError as error:
        raise InputError(
            f"Scene cuts need PySceneDetect ({error}): pip install 'vidalign[prepare]'."
        ) from error
    return AdaptiveDetector, ContentDetector


def find_cuts(frames: Iterable[np.ndarray], detector: str = "both") -> list[int]:
    """Numbers of the frames, uint8 RGB `[height, width, 3]`, with which a new scene begins."""
    finder = CutFinder(detector)
    for pixels in frames:
        finder.add(pixels)
    return finder.cuts()


def scenes_between(cuts: Sequence[int], count: int, margin: int = 0) -> list[Scene]:
    """Scenes of a video of `count` frames.

    Args:
        margin: frames left out on either side of a cut, where transitions leave traces.
    """
    borders = [0, *cuts, count]
    scenes = []
    for first, last in itertools.pairwise(borders):
        begin = first + margin if first else 0
        end = last - margin if last < count else count
        if end > begin:
            scenes.append(Scene(begin, end))
    return scenes


def split_long(scene: Scene, most: int) -> Iterator[Scene]:
    """Parts of about equal length of a scene, none above `most` frames, without a gap."""
    length = scene.last - scene.first
    parts = max(1, -(-length // most))
    borders = [scene.first + round(length * part / parts) for part in range(parts + 1)]
    for first, last in itertools.pairwise(borders):
        yield Scene(first, last)
