"""Sampling of frames under context frames, with guidance by the text and by the context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from generator.inputs.conditions import Conditions, concatenate, repeat
from generator.one_or_several import as_list
from generator.sampling import sample_latents, seeded_noise
from generator.video_ldm.family import VideoLDMGenerator


@dataclass(frozen=True)
class FrameSampling:
    """Settings by which frames are sampled.

    Attributes:
        seeds: of the noise, one a video.
        fps: frames a second, which the model is told.
        num_inference_steps: Euler steps; the model's own number by default.
        guidance_scale: weight of classifier-free guidance by the text; the model's own by default.
        context_guidance: weight of guidance by the context frames; 1 for none.
        batch_size: videos sampled at once.
    """

    seeds: Sequence[int]
    fps: float
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    context_guidance: float = 1.0
    batch_size: int = 32


def guide_by_both(
    both: Tensor, without_text: Tensor, without_context: Tensor, text_scale: float, context_scale: float
) -> Tensor:
    """Guidance by text and context: v + (w - 1)(v - v_text) + (s - 1)(v - v_context).

    Each part is classifier-free guidance (arXiv 2207.12598) by one of the conditions; that of the context follows
    arXiv 2304.08818, section 3.2.

    Args:
        both: velocity under text and context.
        without_text: under the context and the empty prompt.
        without_context: under the text and hidden context.
        text_scale, context_scale: weights w and s; 1 for none.
    """
    return both + (text_scale - 1) * (both - without_text) + (context_scale - 1) * (both - without_context)


@torch.no_grad()
def sample_frames(
    generator: VideoLDMGenerator,
    prompts: Sequence[str],
    latents: Tensor,
    known: Tensor,
    sampling: FrameSampling,
) -> Tensor:
    """Latents whose unknown frames are sampled given the known ones, which stay bit for bit as they are.

    Args:
        generator: the model.
        prompts: one a video.
        latents: `[batch, channels, frames, height, width]`, right where `known`.
        known: context frames, `[frames]`.
        sampling: seeds, frame rate, steps, guidance.

    Returns:
        Latents of the same shape, on the generator's device.
    """
    prompts = as_list(prompts)
    distinct = list(dict.fromkeys(prompts))
    encoded = generator.encode_prompts(distinct)
    empty = generator.encode_prompts([""])
    rows = torch.tensor([distinct.index(prompt) for prompt in prompts])
    parts = []
    for start in range(0, len(prompts), sampling.batch_size):
        part = slice(start, start + sampling.batch_size)
        conditions = {name: value[rows[part].to(value.device)] for name, value in encoded.items()}
        parts.append(
            _sample(generator, conditions, empty, latents[part], known, sampling, sampling.seeds[part])
        )
    return torch.cat(parts)


def _sample(
    generator: VideoLDMGenerator,
    conditions: Conditions,
    empty: Conditions,
    latents: Tensor,
    known: Tensor,
    sampling: FrameSampling,
    seeds: Sequence[int],
) -> Tensor:
    """One batch of `sample_frames`."""
    device, batch = generator.device, len(latents)
    latents, given = latents.to(device), known.to(device)[None]
    mask = given[:, None, :, None, None]
    text_scale = (
        generator.defaults.guidance_scale if sampling.guidance_scale is None else sampling.guidance_scale
    )
    context_scale = sampling.context_guidance if bool(known.any()) else 1.0
    branches = [conditions]
    if text_scale != 1:
        branches.append(repeat(empty, batch))
    if context_scale != 1:
        branches.append(conditions)
    joined = concatenate(branches)
    noise = seeded_noise(seeds, (2, *latents.shape[1:])).to(device)
    frame_velocity = generator.frames

    def velocity(x: Tensor, sigma: Tensor) -> Tensor:
        levels = [torch.where(given, 0.0, sigma[:, None])] * len(branches)
        states = [x] * len(branches)
        if context_scale != 1:
            states[-1] = torch.where(mask, noise[:, 1], x)
            levels[-1] = torch.where(given, 1.0, sigma[:, None])
        predicted = frame_velocity(torch.cat(states), torch.cat(levels), joined, 1 / sampling.fps, True)
        found = list(predicted.chunk(len(branches)))
        full = found[0]
        without_text = found[1] if text_scale != 1 else full
        without_context = found[-1] if context_scale != 1 else full
        guided = guide_by_both(full, without_text, without_context, text_scale, context_scale)
        return torch.where(mask, 0.0, guided)

    steps = sampling.num_inference_steps or generator.defaults.num_inference_steps
    sigmas = generator.sigma_schedule(steps, latents.shape[1:])
    return sample_latents(velocity, torch.where(mask, latents, noise[:, 0]), sigmas)
