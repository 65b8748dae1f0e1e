"""`vidalign generate --upsample`: loads the stages and puts them behind whatever makes the coarse videos."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from alignment.cli.upsampling_arguments import UpsamplingArguments

if TYPE_CHECKING:
    from torch import Tensor

    from generator.base import VideoGenerator
    from generator.cascade.stage import Upsampler


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
