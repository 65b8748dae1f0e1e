"""Clips of the video world of known visual quality: renderings, each spoiled by an artefact of known strength."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from generator.world.grammar import parse
from generator.world.render import render_scenes
from generator.world.scene_sampling import sample_scenes

SIZE, FPS = (9, 32, 32), 8
HARM = {"noise": 1.0, "blur": 0.8, "flicker": 0.9, "blocks": 0.7, "cast": 0.4, "stutter": 0.6}
"""Amount that an artefact at full strength takes from the quality of 1: people mind some more than others."""


def spoil(video: Tensor, artefact: str, strength: float, random: torch.Generator) -> Tensor:
    """`video [3, frames, height, width]` in [-1, 1] with an artefact of a strength from 0 to 1."""
    _, frames, height, width = video.shape
    if artefact == "noise":
        return (video + 0.35 * strength * torch.randn(video.shape, generator=random)).clamp(-1, 1)
    if artefact == "flicker":
        return (video + 0.6 * strength * (2 * torch.rand(1, frames, 1, 1, generator=random) - 1)).clamp(-1, 1)
    if artefact == "cast":
        return (video + 0.6 * strength * (2 * torch.rand(3, 1, 1, 1, generator=random) - 1)).clamp(-1, 1)
    images = video.transpose(0, 1)
    if artefact == "blur":
        reach = torch.arange(-4.0, 5.0)
        kernel = torch.exp(-(reach**2) / (2 * (0.2 + 2 * strength) ** 2))
        kernel = (kernel[:, None] * kernel[None]) / kernel.sum() ** 2
        padded = F.pad(images, (4, 4, 4, 4), mode="replicate").reshape(-1, 1, height + 8, width + 8)
        return F.conv2d(padded, kernel[None, None]).reshape(images.shape).transpose(0, 1)
    if artefact == "blocks":
        coarse = F.interpolate(F.interpolate(images, size=(8, 8), mode="area"), size=(height, width))
        return torch.lerp(video, coarse.transpose(0, 1), strength)
    if artefact == "stutter":
        shown = torch.arange(frames)
        repeated = torch.randperm(frames - 1, generator=random)[: round(strength * (frames - 1))] + 1
        for frame in sorted(repeated.tolist()):
            shown[frame] = shown[frame - 1]
        return video[:, shown]
    raise ValueError(artefact)


def spoiled_clips(prompts: Sequence[str], candidates: int, seed: int) -> tuple[Tensor, np.ndarray]:
    """`[prompts, candidates, 3, frames, height, width]` and their quality `[prompts, candidates]` in [0, 1]: each
    candidate is another scene of its prompt with an artefact drawn at random."""
    random, numbers = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
    videos = torch.empty(len(prompts), candidates, 3, *SIZE)
    quality = np.empty((len(prompts), candidates))
    meanings = [parse(prompt) for prompt in prompts]
    for column in range(candidates):
        scenes = sample_scenes(meanings, seed + 1000 * (column + 1), *SIZE, fps=FPS)
        clean = render_scenes(scenes, *SIZE, fps=FPS, device="cpu")
        for row in range(len(prompts)):
            artefact, strength = str(numbers.choice(list(HARM))), float(numbers.random())
            quality[row, column] = 1 - HARM[artefact] * strength
            videos[row, column] = spoil(clean[row], artefact, strength, random)
    return videos, quality
