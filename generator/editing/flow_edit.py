"""Editing a video with a new prompt, for every family: SDEdit, and FlowEdit where the old prompt is known."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from generator import flow
from generator.base import VideoGenerator
from generator.editing.first_frames import velocity_with_image
from generator.editing.video_prompts import Sampling
from generator.one_or_several import as_list
from generator.output import InputError
from generator.sampling import Velocity, sample_latents, seeded_noise

DEFAULT_SAMPLING = Sampling()
STEP_SEEDS = 1_000_003
"""Between the seeds of the noise of one step and of the next."""


def edit(
    generator: VideoGenerator,
    videos: Tensor,
    prompts: Sequence[str],
    strength: float,
    sampling: Sampling = DEFAULT_SAMPLING,
    source_prompts: Sequence[str] | None = None,
) -> Tensor:
    """Videos changed towards `prompts`.

    Without `source_prompts` they are noised to about the level `strength` and denoised (SDEdit, arXiv 2108.01073). With
    them, `flow_edit` carries them from what they show to what they should show, and what both prompts say stays.

    Args:
        videos: `[batch, 3, frames, height, width]` in [-1, 1], of a size that the model makes.
        prompts: what they should show.
        strength: in (0, 1]; small keeps much. At 1 SDEdit keeps nothing.
        sampling: steps, guidance, seed; with strength s the last s of the steps are taken.
        source_prompts: what they show now.

    Raises:
        InputError: the strength is out of its range, or the model cannot make the size.
    """
    prompts = as_list(prompts)
    source_prompts = None if source_prompts is None else as_list(source_prompts)
    if not 0 < strength <= 1:
        raise InputError(f"The strength is {strength}, but must be above 0 and at most 1.")
    generator.check_size(*videos.shape[2:])
    taken = max(round(strength * sampling.steps(generator)), 1)
    # The schedule from `strength` down, with as many steps as the whole would have there.
    noisiest = min(strength, generator.sigma_max)
    sigmas = flow.shift_sigma(torch.linspace(noisiest, 0, taken + 1), generator.defaults.shift)
    latents = generator.encode(videos.to(generator.device))
    seeds = [sampling.seed + i for i in range(len(prompts))]
    first = videos[:, :, 0]
    velocity = velocity_with_image(generator, prompts, sampling.scales(generator), first, videos.shape[2])
    if source_prompts is None:
        noise = seeded_noise(seeds, latents.shape[1:]).to(latents.device)
        edited = sample_latents(velocity, flow.interpolate(latents, noise, sigmas[0]), sigmas)
    else:
        source = velocity_with_image(generator, source_prompts, 1.0, first, videos.shape[2])
        edited = flow_edit(source, velocity, latents, sigmas, seeds)
    return generator.decode(edited).cpu()


@torch.no_grad()
def flow_edit(
    source: Velocity, target: Velocity, latents: Tensor, sigmas: Tensor, seeds: Sequence[int]
) -> Tensor:
    """Latents carried from the source prompt to the target prompt without noise in between.

    In each step both velocities are taken at the same noise: at σ the source is x_σ = (1 − σ) x + σ ε and the edited
    video z stands at z + x_σ − x; then z moves by (σ' − σ) (v_target − v_source). With equal velocities nothing
    changes (FlowEdit: Kulikov et al., arXiv 2412.08629, algorithm 1 with one noise a step).

    Args:
        source, target: velocities of the two prompts.
        latents: clean, of the videos `[batch, ...]`.
        sigmas: falling noise levels `[steps + 1]`.
        seeds: of the noise, one a video.
    """
    edited = latents.clone()
    for step, (sigma, sigma_next) in enumerate(itertools.pairwise(sigmas.to(latents.device))):
        noise = seeded_noise([seed + STEP_SEEDS * (step + 1) for seed in seeds], latents.shape[1:])
        noisy = flow.interpolate(latents, noise.to(latents.device), sigma)
        levels = sigma.expand(len(latents))
        moved = edited + noisy - latents
        edited = edited + (sigma_next - sigma) * (target(moved, levels) - source(noisy, levels))
    return edited
