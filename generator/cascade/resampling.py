"""Videos of another size and frame rate: what a stage starts from, what training clips are made of, and what a stage
must be better than. All take and return `[batch, 3, frames, height, width]` in [-1, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as functional
from torch import Tensor


def _each_frame(videos: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    frames = videos.transpose(1, 2).flatten(0, 1)
    corners = {} if mode in ("area", "nearest") else {"align_corners": False}
    resized = functional.interpolate(frames, size, mode=mode, **corners).clamp(-1, 1)
    return resized.unflatten(0, (len(videos), -1)).transpose(1, 2)


def enlarge(videos: Tensor, factor: int, mode: str = "bicubic") -> Tensor:
    """`factor` times the height and width; `mode` is one of `torch.nn.functional.interpolate` for images."""
    return _each_frame(videos, (videos.shape[3] * factor, videos.shape[4] * factor), mode)


def reduce(videos: Tensor, factor: int) -> Tensor:
    """Height and width divided by `factor`: every pixel is the mean of a square."""
    return _each_frame(videos, (videos.shape[3] // factor, videos.shape[4] // factor), "area")


def blend_frames(videos: Tensor, factor: int) -> Tensor:
    """`factor * (frames - 1) + 1` frames, the new ones between given ones blended linearly."""
    before, after = videos[:, :, :-1], videos[:, :, 1:]
    weights = torch.arange(factor, device=videos.device, dtype=videos.dtype) / factor
    weights = weights.reshape(1, 1, 1, factor, 1, 1)
    between = torch.lerp(before.unsqueeze(3), after.unsqueeze(3), weights).flatten(2, 3)
    return torch.cat([between, videos[:, :, -1:]], dim=2)


def repeat_frames(videos: Tensor, factor: int) -> Tensor:
    """`factor * (frames - 1) + 1` frames, each new one a copy of the given one that is nearest in time."""
    frames = factor * (videos.shape[2] - 1) + 1
    nearest = (torch.arange(frames, device=videos.device) + factor // 2) // factor
    return videos[:, :, nearest]


def keep_frames(videos: Tensor, factor: int) -> Tensor:
    """The first of every `factor` frames: the inverse of the two above."""
    return videos[:, :, ::factor]
