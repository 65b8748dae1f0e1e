"""Checks of `generate`, some of which `evaluate` has in common; imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from generator.output import InputError
from generator.video_files.pixel_formats import check_pixel_format

if TYPE_CHECKING:
    from generator.generation import PlannedVideo


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


def refuse_negatives(prompt: Any, plan: Sequence[PlannedVideo]) -> None:
    """Raises `InputError` where a prompt has a negative one, but nothing takes it."""
    if prompt.task and any(each.record.negative_prompt for each in plan):
        raise InputError(
            "A negative prompt was given, but images and videos as prompts take none: remove it."
        )


def check_images(arguments: Any, prompt: Any, plan: Sequence[PlannedVideo]) -> None:
    """Refuses images of prompts where something else says how videos begin, or a reward changes how they are made."""
    other = f"--{prompt.task}" if prompt.task else "--reward" if arguments.reward else None
    if other and any(each.record.images for each in plan):
        raise InputError(
            f"{other} was given, but prompts in {arguments.prompts} name an image or a control video: leave {other} or "
            "these out."
        )


def check_combination(arguments: Any, prompt: Any) -> None:
    """Refuses what does not go with a reward or with a video as a prompt."""
    if prompt.task and arguments.reward:
        raise InputError(f"--{prompt.task} and --reward were both given: ask for one of them.")
    if arguments.solver != "euler" and (prompt.task or arguments.reward):
        raise InputError(
            f"--solver {arguments.solver} was given with a reward or a video as a prompt, which sample by Euler steps: "
            "leave it out."
        )
