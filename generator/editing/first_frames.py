"""The first frame as models see it that need an image beside the noise (`VideoGenerator.image`)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from generator.base import VideoGenerator
from generator.inputs.conditions import Conditions, repeat
from generator.one_or_several import as_list
from generator.sampling import Velocity, guided_velocity


def velocity_with_image(
    generator: VideoGenerator,
    prompts: Sequence[str],
    guidance_scale: float | tuple[float, float],
    images: Tensor,
    num_frames: int,
) -> Velocity:
    """The guided velocity of `prompts` for every family; those that need an image see it in both branches.

    Args:
        guidance_scale: one scale, or that of each of two transformers.
        images: `[batch, 3, height, width]` in [-1, 1], one a prompt.
        num_frames: of the videos that begin with them.
    """
    prompts = as_list(prompts)
    conditions = generator.encode_prompts(list(prompts))
    scale, scale_2 = guidance_scale if isinstance(guidance_scale, tuple) else (guidance_scale, guidance_scale)
    guided = (scale, scale_2) != (1, 1)
    negative = repeat(generator.encode_prompts([""]), len(prompts)) if guided else None
    if generator.image is not None:
        seen = generator.image(images.to(generator.device), num_frames)
        conditions = {**conditions, **seen}
        negative = None if negative is None else {**negative, **seen}
    return guided_velocity(generator, conditions, negative, scale, guidance_scale_2=scale_2)


@torch.no_grad()
def with_first_frame(generator: VideoGenerator, conditions: Conditions, latents: Tensor) -> Conditions:
    """`conditions` joined with what a model that needs an image sees of the first frame; others' are unchanged.

    Args:
        latents: of the videos `[batch, C, F, H, W]`, clean; their first frame is the image, as the autoencoder has it,
            and their last one the last image, where the model always takes one.
    """
    if generator.image is None:
        return conditions
    side, time = generator.size_multiples()
    first, second = (generator.latent_shape(frames, side, side)[1] for frames in (1, 1 + time))
    num_frames = (latents.shape[2] - first) // (second - first) * time + 1
    if generator.image.last_image == "always":
        videos = generator.decode(latents)
        return {**conditions, **generator.image(videos[:, :, 0], num_frames, videos[:, :, -1])}
    images = generator.decode(latents[:, :, :first])[:, :, 0]
    return {**conditions, **generator.image(images, num_frames)}
