"""Figures of super-resolution as pure functions: distance from the true video, and sharpness."""

from __future__ import annotations

import torch
from torch import Tensor


def psnr(videos: Tensor, truth: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB `[batch]` of videos `[batch, ...]` in [-1, 1]: 10 log₁₀(4 / mean square error).

    Equal videos have 100 dB.
    """
    error = (videos.float() - truth.float()).flatten(1).square().mean(1)
    return 10 * torch.log10(4 / error.clamp_min(4e-10))


def high_frequency_share(videos: Tensor, cutoff: float = 0.5) -> Tensor:
    """Share `[batch]` of the spectral energy of frames, without their mean, above `cutoff` of the Nyquist frequency.

    Args:
        videos: `[batch, channels, frames, height, width]`.
        cutoff: frequency in rows or in columns, whichever is higher, from 0 to 1. Above one half lies what a video of
            half the height and width cannot hold.
    """
    energy = torch.fft.fft2(videos.float()).abs().square()
    rows, columns = (torch.fft.fftfreq(n, device=videos.device).abs() * 2 for n in videos.shape[-2:])
    frequency = torch.maximum(rows[:, None], columns[None, :])
    energy = energy.masked_fill(frequency == 0, 0.0)
    high = energy.masked_fill(frequency < cutoff, 0.0)
    return high.flatten(1).sum(1) / energy.flatten(1).sum(1).clamp_min(1e-12)
