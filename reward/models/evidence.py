"""Implicit evidence: how much better a generator denoises a video with its prompt than without."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from generator.base import VideoGenerator
from generator.inputs.conditions import Conditions


def fixed_noise(shape: Sequence[int], count: int, device: torch.device) -> Tensor:
    """`count` noise samples of `shape`, the same in every process and on every device."""
    source = torch.Generator().manual_seed(20240229)
    return torch.randn((count, *shape), generator=source).to(device)


def implicit_evidence(
    generator: VideoGenerator,
    latents: Tensor,
    conditions: Conditions,
    unconditional: Conditions,
    sigmas: Sequence[float],
    draws: Tensor,
) -> Tensor:
    """`[batch, 2·levels]`: at each noise level the error without prompt minus the error with it, and the latter's
    logarithm (Diffusion Classifier, arXiv 2303.16203, eq. 5).

    Args:
        latents: `[batch, channels, frames, height, width]`.
        conditions, unconditional: of the prompts and of the empty prompt, one row a video.
        sigmas: noise levels in (0, 1).
        draws: noise samples `[draws, channels, frames, height, width]`, the same for all videos; their errors are
            averaged.
    """
    columns = []
    for level in sigmas:
        sigma = latents.new_full((len(latents),), level)
        gains, errors = [], []
        for noise in draws:
            noisy, target = (1 - level) * latents + level * noise, noise - latents
            with_prompt = generator.velocity(noisy, sigma, conditions)
            without = generator.velocity(noisy, sigma, unconditional)
            error = (with_prompt - target).square().flatten(1).mean(1)
            gains.append((without - target).square().flatten(1).mean(1) - error)
            errors.append(error)
        columns.append(torch.stack(gains).mean(0))
        columns.append(torch.stack(errors).mean(0).clamp(min=1e-8).log())
    return torch.stack(columns, dim=1)
