"""Signs of a gamed reward in videos: brightness, motion, saturation and the entropy of their colours.

None of these is optimised. A reward that rises while one of them leaves its usual range is being hacked
(frozen videos: GRPO on VideoReward cut Wan2.1's dynamic degree from 58.6 to 41.6).
"""

from __future__ import annotations

import torch
from torch import Tensor

COLOUR_LEVELS = 4


def video_statistics(videos: Tensor) -> dict[str, Tensor]:
    """Statistics `[batch]` of videos `[batch, 3, frames, height, width]` in [−1, 1].

    `brightness`: mean of all channels, in [0, 1]. `motion`: mean absolute difference of consecutive frames, in
    [0, 1]; 0 for a single frame. `saturation`: mean of largest minus smallest channel, in [0, 1].
    `colour_entropy`: entropy in bits of the histogram of colours on a 4×4×4 grid, in [0, 6].
    """
    pixels = (videos.float() + 1) / 2
    motion = (
        pixels.diff(dim=2).abs().flatten(1).mean(1) if videos.shape[2] > 1 else pixels.new_zeros(len(videos))
    )
    levels = (pixels * COLOUR_LEVELS).long().clamp(0, COLOUR_LEVELS - 1)
    bins = (levels[:, 0] * COLOUR_LEVELS + levels[:, 1]) * COLOUR_LEVELS + levels[:, 2]
    counts = torch.zeros(len(videos), COLOUR_LEVELS**3, device=videos.device)
    counts.scatter_add_(1, bins.flatten(1), torch.ones_like(bins.flatten(1), dtype=counts.dtype))
    shares = counts / counts.sum(1, keepdim=True)
    return {
        "brightness": pixels.flatten(1).mean(1),
        "motion": motion,
        "saturation": (pixels.amax(1) - pixels.amin(1)).flatten(1).mean(1),
        "colour_entropy": torch.special.entr(shares).sum(1) / torch.log(torch.tensor(2.0)),
    }
