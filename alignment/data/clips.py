"""Choice of what is trained on: sizes of one area, lengths, and the parts of long videos."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from generator.base import VideoGenerator
from generator.data.latent_cache import Clip, Size, nearest_size
from generator.output import InputError
from generator.video import clip_shape
from generator.video_files.timing import frames_in_clip

CHOICES = ("first", "middle", "uniform", "all")
RATIOS = tuple(2 ** (exponent / 3) for exponent in range(-3, 4))
"""Width by height of the sizes of an area: from 1:2 to 2:1 in equal factors."""
COARSE_SIDE, COARSE = 256, 32
"""Sizes of an area of at least so many pixels squared have sides that are multiples of 32, which divides their tokens
among 2, 4 or 8 devices."""

Shape = tuple[int, int]
"""Height and width."""


class ClipsWanted(Protocol):
    """Arguments of a command that say what is trained on."""

    num_frames: int | None
    height: int | None
    width: int | None
    native_size: bool | None
    area: str | None
    frame_buckets: list[int] | None
    clips: str
    clips_per_video: int


@dataclass
class ChosenClips:
    """Clips that are trained on.

    Attributes:
        clips: of each video, in order; none where it was left out.
        dropped: number of videos that were left out, by reason.
        enlarged: number of clips that have more pixels than their video.
    """

    clips: list[list[Clip]]
    dropped: Counter[str] = field(default_factory=Counter)
    enlarged: int = 0

    def remarks(self) -> list[str]:
        """Sentences about what was left out or enlarged."""
        found = [f"{count} videos are left out: {reason}." for reason, count in self.dropped.items()]
        if self.enlarged:
            found.append(f"{self.enlarged} clips are enlarged: their videos have fewer pixels.")
        return found


def area_of(text: str) -> Shape:
    """Height and width of an argument such as `480x832`.

    Raises:
        InputError: it is no such text.
    """
    parts = text.lower().split("x")
    if len(parts) != 2 or not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(
            f"area is {text!r}, but must be height x width in pixels: write 480x832, for example."
        )
    return int(parts[0]), int(parts[1])


def area_sizes(shape: Shape, multiple: int) -> list[Shape]:
    """The sizes in which videos of one area are trained on: `shape`, its transpose, and others of about as many pixels
    whose ratios of width to height go from 1:2 to 2:1.

    Args:
        shape: height and width, multiples of `multiple`.
        multiple: sides are multiples of it.
    """
    height, width = shape
    area = height * width

    def rounded(ratio: float) -> Shape:
        wide = multiple * max(1, round(math.sqrt(area * ratio) / multiple))
        candidates = [
            (multiple * max(1, round(area / side / multiple)), side)
            for side in (wide - multiple, wide, wide + multiple)
            if side > 0
        ]
        return min(
            candidates,
            key=lambda size: (
                abs(math.log(size[1] / size[0] / ratio)) + abs(math.log(size[0] * size[1] / area))
            ),
        )

    sizes = {ratio: rounded(ratio) for ratio in RATIOS}
    for own in {shape, (width, height)}:
        nearest = min(RATIOS, key=lambda ratio: abs(math.log(own[1] / own[0] / ratio)))
        sizes[nearest] = own
    return sorted(set(sizes.values()), key=lambda size: size[1] / size[0])


def nearest_size_of(ratio: float, sizes: Sequence[Shape]) -> Shape:
    """The size whose width by height is nearest to `ratio`, in factors."""
    return min(sizes, key=lambda size: abs(math.log(size[1] / size[0] / ratio)))


def clip_starts(num_frames: int, length: int, choice: str, count: int = 4) -> list[int]:
    """First frames of the clips of `length` frames that a video of `num_frames` gives.

    Args:
        choice: `first`; `middle`; `uniform`, `count` clips (fewer, if it has no more places) at equal distances from
            the first frame to the last; `all`, one after the other.
    """
    room = max(0, num_frames - length)
    if choice == "first":
        return [0]
    if choice == "middle":
        return [room // 2]
    if choice == "all":
        return list(range(0, room + 1, length))
    if choice != "uniform":
        raise InputError(f"clips is {choice!r}: choose one of {', '.join(CHOICES)}.")
    places = [0.5 * room] if count == 1 else [index * room / (count - 1) for index in range(count)]
    return sorted({math.floor(place + 0.5) for place in places})


class ClipChooser:
    """Chooses clips as the arguments of a command say.

    Args:
        generator: what is trained.
        arguments: what is asked for.
        native_size: whether sizes and lengths that are not asked for have no upper limit.

    Raises:
        InputError: arguments contradict each other, or the model has no such size.
    """

    def __init__(self, generator: VideoGenerator, arguments: ClipsWanted, native_size: bool = False) -> None:
        self.generator = generator
        self.native_size = native_size
        self.arguments = arguments
        self.side, self.time = generator.size_multiples()
        self._check()
        self.sizes = self._sizes()

    @property
    def is_asked_for(self) -> bool:
        """False where videos are trained on from their start at their own sizes, as without these arguments."""
        asked = self.arguments
        return bool(asked.area or asked.frame_buckets or asked.clips != "first")

    def _check(self) -> None:
        asked = self.arguments
        given = [name for name in ("height", "width", "native_size") if getattr(asked, name)]
        if asked.area and given:
            raise InputError(
                f"area and {given[0]} were both given, but both set the size: leave one of them out."
            )
        if asked.frame_buckets and (asked.num_frames or asked.native_size):
            other = "num_frames" if asked.num_frames else "native_size"
            raise InputError(
                f"frame_buckets and {other} were both given, but both set the length: leave one of them out."
            )
        if asked.clips not in CHOICES:
            raise InputError(f"clips is {asked.clips!r}: choose one of {', '.join(CHOICES)}.")
        if asked.clips_per_video < 1:
            raise InputError(f"clips_per_video is {asked.clips_per_video}, but must be at least 1.")
        for frames in asked.frame_buckets or []:
            if frames < 1 or (frames - 1) % self.time:
                below = max(0, frames - 1) // self.time * self.time + 1
                raise InputError(
                    f"frame_buckets has {frames}, but {self.generator.name} makes videos of {below} or "
                    f"{below + self.time} frames: use one of these."
                )

    def _sizes(self) -> list[Shape]:
        if not self.arguments.area:
            return []
        shape = area_of(self.arguments.area)
        coarse = math.isqrt(shape[0] * shape[1]) >= COARSE_SIDE
        multiple = math.lcm(self.side, COARSE) if coarse else self.side
        if any(side % multiple for side in shape):
            height, width = (max(multiple, round(side / multiple) * multiple) for side in shape)
            raise InputError(
                f"area is {self.arguments.area}, but sides must be multiples of {multiple}: use {height}x{width}."
            )
        sizes = area_sizes(shape, multiple)
        for size in sizes:
            self.generator.check_size(1, *size)
        return sizes

    def choose(self, groups: Sequence[Sequence[Path]]) -> ChosenClips:
        """Clips of videos; those of a group, of which one is compared with the other, have one size and length.

        The clips of `chosen.clips[i]` are those of group i: one a video of the group.

        Raises:
            InputError: a video is missing, broken, or smaller than anything the family can make; or none is left.
        """
        chosen = ChosenClips([])
        for group in groups:
            chosen.clips.append(self._of_group(group, chosen))
        if not any(chosen.clips):
            reasons = "; ".join(f"{count} {reason}" for reason, count in chosen.dropped.items())
            raise InputError(f"No video is left to train on ({reasons}): use smaller frame_buckets.")
        return chosen

    def _of_group(self, group: Sequence[Path], chosen: ChosenClips) -> list[Clip]:
        asked, rate = self.arguments, self.generator.defaults.fps
        shapes = [clip_shape(path) for path in group]
        lengths = [frames_in_clip(shape.num_frames, shape.fps, rate) for shape in shapes]
        still = min(shape.num_frames for shape in shapes) == 1
        length = 1 if still else self._length(min(lengths))
        if length is None:
            longer = [each for each in asked.frame_buckets or [] if each > 1]
            why = f"shorter than {min(longer)} frames at {rate:g} a second" if longer else "not stills"
            chosen.dropped[why] += len(group)
            return []
        mean = math.exp(sum(math.log(shape.width / shape.height) for shape in shapes) / len(shapes))
        least = min(shape.height for shape in shapes), min(shape.width for shape in shapes)
        size = self._size(length, mean, least, group[0])
        clips = []
        for path, own in zip(group, lengths, strict=True):
            for start in clip_starts(own, length, asked.clips, asked.clips_per_video):
                clips.append(Clip(path, size, start / rate))
        if size[1] * size[2] > least[0] * least[1]:
            chosen.enlarged += len(clips)
        return clips

    def _length(self, frames: int) -> int | None:
        """Frames to train on of a video that has `frames` at the model's rate; None where it is too short."""
        asked, own = self.arguments, self.generator.defaults.num_frames
        if asked.frame_buckets:
            return max((each for each in asked.frame_buckets if 1 < each <= frames), default=None)
        wanted = asked.num_frames or (frames if self.native_size else min(frames, own))
        return (wanted - 1) // self.time * self.time + 1

    def _size(self, length: int, ratio: float, least: Shape, path: Path) -> Size:
        asked, own = self.arguments, self.generator.defaults
        if self.sizes:
            return (length, *nearest_size_of(ratio, self.sizes))
        wanted = [
            given or (side if self.native_size else min(side, limit))
            for given, side, limit in zip(
                (asked.height, asked.width), least, (own.height, own.width), strict=True
            )
        ]
        return nearest_size(self.generator, (length, wanted[0], wanted[1]), f"The video {path}")
