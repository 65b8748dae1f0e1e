"""`vidalign generate --upsample`: loads the stages and puts them behind whatever makes the coarse videos."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from alignment.cli.upsampling_arguments import UpsamplingArguments

if TYPE_CHECKING:
    from torch import Tensor

    from generator.base import VideoGenerator


def behind_stages(
    model: VideoGenerator,
    asked: UpsamplingArguments,
    generate: Callable[..., Tensor],
    fps: float,
    solver: str | None = None,
) -> tuple[Callable[..., Tensor], float]:
    """`generate` with the stages that are asked for behind it, and the frames a second of the result.

    Args:
        solver: that of `generate` where it is the model's own and takes no images, so that latent upsamplers take its
            latents as they are; None elsewhere.

    Raises:
        InputError: a stage cannot be found, cannot be read, or does not fit the model.
    """
    if not asked.upsample:
        return generate, fps
    from generator.cascade.stage import StageSampling
    from generator.cascade.upsamplers import load_upsamplers, upsampled
    from generator.loading import load_generator

    stages = load_upsamplers(asked.upsample, model, load_generator)
    sampling = StageSampling(asked.upsample_steps, asked.upsample_guidance, asked.upsample_augmentation)
    if solver is None:
        return upsampled(generate, fps, stages, sampling)
    return upsampled(generate, fps, stages, sampling, model, solver)
