"""Decoded frames beside the trunk's tokens: what a latent reward model sees of the pixels themselves."""

from __future__ import annotations

import itertools

import torch
from einops import rearrange
from torch import Tensor, nn

from generator.base import VideoGenerator


def decoded_frames(generator: VideoGenerator, latents: Tensor, wanted: bool) -> Tensor:
    """Videos `[batch, 3, frames, height, width]` of normalised latents, differentiable in them where they ask for
    gradients; videos without frames where none is `wanted`.

    Raises:
        InputError: gradients are asked for, but the generator's autoencoder passes none.
    """
    if not wanted:
        return latents.new_zeros(len(latents), 3, 0, 1, 1)
    if torch.is_grad_enabled() and latents.requires_grad:
        return generator.decode_with_gradients(latents)
    with torch.no_grad():
        return generator.decode(latents)


class FrameReader(nn.Module):
    """Three convolutions over time and space: each token sees five frames and about a fifth of a frame of 32 pixels.

    Args:
        size: width of the tokens.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        widths = (3, size // 4, size // 2, size)
        layers: list[nn.Module] = []
        for number, (before, after) in enumerate(itertools.pairwise(widths)):
            time = 3 if number else 1
            layers += [
                nn.Conv3d(before, after, (time, 3, 3), stride=(1, 2, 2), padding=(time // 2, 1, 1)),
                nn.GroupNorm(1, after),
                nn.GELU(),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, videos: Tensor) -> Tensor:
        """Videos `[batch, 3, frames, height, width]` in [-1, 1] to tokens `[batch, tokens, size]`."""
        return rearrange(self.layers(videos.float()), "b c f h w -> b (f h w) c")
