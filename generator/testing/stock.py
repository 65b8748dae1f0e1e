"""Results of diffusers' pipelines in their own call, to compare a family with: same prompts, same noise, no SDE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from generator import flow
from generator.base import VideoGenerator
from generator.sampling import guided_velocity, sample_latents, seeded_noise
from generator.stock_pipelines import EulerWithExplicitSigmas, StockVideos, stock_latents

__all__ = ["PROMPTS", "STEPS", "EulerWithExplicitSigmas", "noise_for", "ours", "stock_call"]

PROMPTS = ["a red circle moves left", "the dark blue square on the right moves left and right"]
STEPS = 4  # of 1000: CogVideoX's scheduler ends above zero noise where the number of steps does not divide it


def noise_for(generator: VideoGenerator, count: int = 2) -> Tensor:
    """Noise `[count, C, F, H, W]` for videos of the generator's default size."""
    size = generator.defaults
    return seeded_noise(range(count), generator.latent_shape(size.num_frames, size.height, size.width))


def ours(
    generator: VideoGenerator,
    guidance_scale: float,
    prompts: Sequence[str] = PROMPTS,
    guidance_scale_2: float | None = None,
) -> Tensor:
    """Latents `[batch, C, F, H, W]` that our sampler makes of `noise_for`."""
    noise = noise_for(generator, len(prompts))
    conditions = generator.encode_prompts(prompts)
    negative = generator.encode_prompts([""]) if guidance_scale != 1 else None
    velocity = guided_velocity(
        generator, conditions, negative, guidance_scale, guidance_scale_2=guidance_scale_2
    )
    sigmas = generator.sigma_schedule(STEPS, noise.shape[1:])
    return sample_latents(velocity, flow.initial_state(noise, sigmas[0]), sigmas)


def stock_call(
    family: str, pipeline: Any, generator: VideoGenerator, guidance_scale: float, **more: Any
) -> Tensor:
    """Latents `[batch, C, F, H, W]` of the pipeline's own call, which `more` goes to, from the same noise."""
    size = generator.defaults
    videos = StockVideos(
        PROMPTS,
        noise_for(generator),
        size.num_frames,
        size.height,
        size.width,
        STEPS,
        guidance_scale,
        size.shift,
        size.fps,
    )
    return stock_latents(pipeline, videos, **more)
