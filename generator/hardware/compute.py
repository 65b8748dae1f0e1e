"""Size of the work that a transformer has with a video: tokens, and multiplications."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from generator.video_model import VideoModel


def count_tokens(generator: VideoModel, latent_shape: Sequence[int]) -> int:
    """Tokens that the transformer makes of latents `(channels, frames, height, width)`."""
    config = _configuration(generator)
    patch = getattr(config, "patch_size", None) or 1
    if isinstance(patch, int):
        patch = (getattr(config, "patch_size_t", None) or 1, patch, patch)
    return math.prod(-(-length // side) for length, side in zip(latent_shape[1:], patch, strict=True))


def _configuration(generator: VideoModel) -> Any:
    """The transformer's; of two experts, the first one's."""
    return getattr(getattr(generator.pipeline, "transformer", generator.transformer), "config", None)


def width_of(generator: VideoModel) -> int:
    """Channels of the transformer's blocks; 0 where its configuration does not say."""
    config = _configuration(generator)
    heads, size = (getattr(config, name, None) for name in ("num_attention_heads", "attention_head_dim"))
    product = heads * size if isinstance(heads, int) and isinstance(size, int) else 0
    return getattr(config, "hidden_size", None) or product


def block_work(tokens: int, weights: float, channels: int) -> float:
    """Multiplications of one video in one block: those with its weights, and those of attention, in which each token
    meets each other one twice.

    Args:
        tokens: of the video.
        weights: of the block.
        channels: width of the block.
    """
    return tokens * weights + 2 * tokens**2 * channels


def video_work(generator: VideoModel, latent_shape: Sequence[int]) -> float:
    """Multiplications of one video in an average block; what is outside the blocks is small."""
    blocks = generator.blocks()
    # Under ZeRO-3 a parameter is empty here and knows its own number of values.
    counted = [
        share * getattr(p, "ds_numel", p.numel())
        for block, share in zip(blocks, generator.block_shares(), strict=True)
        for p in block.parameters()
    ]
    weights = sum(counted) / max(1, len(blocks))
    return block_work(count_tokens(generator, latent_shape), weights, width_of(generator))


HOST_TO_GPU = 55e9
"""Bytes a second from page-locked memory to a GPU that 16 lanes of PCIe 5 give; those of PCIe 4 give half."""
COMPUTING = 5e14
"""Floating-point operations a second of Wan 14B's forward pass in bfloat16 on one H200 (32,760 tokens in 3.6 s)."""


def copying_share(generator: VideoModel, latent_shape: Sequence[int]) -> float:
    """Seconds that copying offloaded weights from the host takes, in those of computing with them, for a pass over one
    video in bfloat16. Both go on at the same time: up to 1 the copies cost no time, beyond it a pass takes as long as
    they do.

    Args:
        latent_shape: `(channels, frames, height, width)`.
    """
    blocks = generator.blocks()
    weights = sum(p.numel() for block in blocks for p in block.parameters()) / max(1, len(blocks))
    copying, computing = 2 * weights / HOST_TO_GPU, 2 * video_work(generator, latent_shape) / COMPUTING
    return copying / max(computing, 1e-30)


def operations_text(operations: float) -> str:
    """A number of floating-point operations with a unit."""
    units = ("FLOP", "KFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP")
    power = min(len(units) - 1, int(math.log10(max(operations, 1)) // 3))
    return f"{operations / 1000**power:.3g} {units[power]}"
