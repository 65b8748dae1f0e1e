"""Checks that `generate` and `evaluate` have in common; imports nothing heavy."""

from __future__ import annotations

from typing import Any

from generator.output import InputError
from generator.video_files.pixel_formats import check_pixel_format


def check_generation(arguments: Any, *further: str) -> None:
    """Raises `InputError` where the arguments of a command that makes videos are out of their range.

    Args:
        arguments: has the fields of `generator.generation.GenerationSettings`, `seed` and `num_videos_per_prompt`.
        further: names of more numbers that must be at least 1.
    """
    counts = ("num_frames", "height", "width", "num_inference_steps", "num_videos_per_prompt", "batch_size")
    for name in (*counts, *further):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise InputError(f"--{name} is {value}, but it must be at least 1.")
    if abs(arguments.seed) >= 2**62:
        raise InputError(f"--seed is {arguments.seed}, but it must be between -2^62 and 2^62.")
    check_pixel_format(arguments.pixel_format, arguments.height, arguments.width)
