"""Checks of the videos that are compared, before the first is encoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from alignment.stages.arguments import TrainingSizeArguments
from generator.base import VideoGenerator
from generator.data.latent_cache import training_size
from generator.output import InputError


def check_equal_sizes(
    generator: VideoGenerator, groups: Sequence[Sequence[Path]], size: TrainingSizeArguments
) -> None:
    """Raises `InputError` where the videos of one comparison would be trained on at different sizes."""
    if size.num_frames and size.height and size.width:
        return
    asked = (size.num_frames, size.height, size.width, bool(size.native_size))
    distinct = dict.fromkeys(path for group in groups for path in group)
    sizes = {path: training_size(generator, path, *asked)[0] for path in distinct}
    for group in groups:
        different = [path for path in group if sizes[path] != sizes[group[0]]]
        if different:
            raise InputError(
                f"{group[0]} and {different[0]} are compared, but would be trained on at {_text(sizes[group[0]])} and "
                f"{_text(sizes[different[0]])}: give --num_frames, --height and --width, so that they become equal."
            )


def _text(size: tuple[int, int, int]) -> str:
    return f"{size[0]} frames of {size[1]}x{size[2]}"
