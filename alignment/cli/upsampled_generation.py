"""`vidalign generate --upsample`: loads the stages and puts them behind whatever makes the coarse videos, or behind a
given video, which needs neither a model of its own nor a prompt."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from alignment.cli.upsampling_arguments import UpsamplingArguments
from generator.data.prompts import PromptRecord, read_prompts
from generator.output import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from generator.base import VideoGenerator
    from generator.cascade.stage import Upsampler


def require_model_and_prompts(model: str | None, prompts: str | None, others: Sequence[Any]) -> None:
    """Refuses a call without a model or prompts where more than upsampling of a given video is asked for.

    Args:
        others: further arguments of the command, `video`, `upsample`, the tasks and `rewriter` among their fields.

    Raises:
        InputError: one is missing.
    """
    missing = [name for name, value in (("--model", model), ("--prompts", prompts)) if value is None]
    asked = {name for each in others for name, value in vars(each).items() if value not in (None, [])}
    if missing and (not {"video", "upsample"} <= asked or asked & {"extend", "interpolate"}):
        raise InputError(
            f"The following arguments are required: {', '.join(missing)} (only --video FILE with --upsample STAGE and "
            "no other task needs neither); see vidalign generate --help."
        )
    if prompts is None and "rewriter" in asked:
        raise InputError("--rewriter was given, but no prompts: pass --prompts FILE, or leave it out.")


def model_and_prompts(
    model: str | None, prompts: str | None, asked: UpsamplingArguments
) -> tuple[str, list[PromptRecord]]:
    """The model's name and the prompts; of a call with neither, the model that the first stage names, and one empty
    prompt.

    Raises:
        InputError: they cannot be read, or the stage names no model.
    """
    records = [PromptRecord("")] if prompts is None else read_prompts(prompts)
    if model is None:
        from generator.cascade.upsamplers import base_of_upsamplers

        model = base_of_upsamplers(asked.upsample or [])
    return model, records


def load_stages(model: VideoGenerator, asked: UpsamplingArguments) -> list[Upsampler]:
    """The stages that are asked for; none where that is so.

    Raises:
        InputError: a stage cannot be found, cannot be read, or does not fit the model.
    """
    if not asked.upsample:
        return []
    from generator.cascade.upsamplers import load_upsamplers
    from generator.loading import load_generator

    return load_upsamplers(asked.upsample, model, load_generator)


def coarse_model(model: VideoGenerator, stages: Sequence[Upsampler]) -> VideoGenerator:
    """The model with videos at the rate that a temporal stage in front was trained on, where it can make key frames so
    far apart; else the model itself."""
    from generator.cascade.upsamplers import with_rate_of

    return with_rate_of(model, stages) if stages else model


def behind_stages(
    model: VideoGenerator,
    asked: UpsamplingArguments,
    stages: Sequence[Upsampler],
    generate: Callable[..., Tensor],
    fps: float,
    solver: str | None = None,
) -> tuple[Callable[..., Tensor], float]:
    """`generate` with the stages behind it, and the frames a second of the result.

    Args:
        stages: from `load_stages`.
        solver: that of `generate` where it is the model's own and takes no images, so that latent upsamplers take its
            latents as they are; None elsewhere.
    """
    if not stages:
        return generate, fps
    from generator.cascade.stage import StageSampling
    from generator.cascade.upsamplers import upsampled

    sampling = StageSampling(asked.upsample_steps, asked.upsample_guidance, asked.upsample_augmentation)
    if solver is None:
        return upsampled(generate, fps, stages, sampling)
    return upsampled(generate, fps, stages, sampling, model, solver)
