"""Figures of video models made from image models: identity of objects, displacement, flicker."""

from __future__ import annotations

import torch
from torch import Tensor

from generator.world.constancy import keep_shapes
from generator.world.perceive import Perception, perceive

CHROMA_MARGIN = 0.2
"""Most that the chroma of an object in a frame differs from its mean over the clip, where its colour is kept."""
SIZE_RATIO = 1.3
"""Most by which the radius of an object changes from one frame to the next, where its size is kept."""


def flicker(videos: Tensor) -> Tensor:
    """Energy of the differences between neighbouring frames, `[batch]`: the mean of their squares.

    Of a clip in which nothing moves, all of it is flicker.

    Args:
        videos: `[batch, 3, frames, height, width]`, at least two frames.
    """
    return videos.diff(dim=2).pow(2).flatten(1).mean(1)


def still_clips(videos: Tensor) -> Tensor:
    """Clips `[batch, 3, frames, height, width]` that show the first frame of `videos` all the time."""
    return videos[:, :, :1].expand_as(videos)


def _tracked(seen: Perception) -> Tensor:
    """Objects `[batch, tracks]` that are seen in at least half of the frames."""
    return seen.present.float().mean(2) >= 0.5


def keeps_look(seen: Perception) -> Tensor:
    """Objects `[batch, tracks]` that are in every frame, with one colour and without jumps in size.

    Args:
        seen: of `generator.world.perceive.perceive`.
    """
    chroma = (seen.chroma - seen.chroma.mean(dim=2, keepdim=True)).norm(dim=-1)
    ratio = seen.radius.clamp_min(1e-4).log().diff(dim=2).abs().exp()
    steady = (ratio <= SIZE_RATIO).all(2)
    return seen.present.all(2) & (chroma <= CHROMA_MARGIN).all(2) & steady


def keep_identity(videos: Tensor, fps: float = 8.0) -> Tensor:
    """Returns whether every object of a video keeps its shape, colour and size over all frames, `[batch]`.

    Args:
        videos: `[batch, 3, frames, height, width]` in [-1, 1].
        fps: frames a second.
    """
    kept = []
    for part in videos.split(128):
        seen = perceive(part, fps)
        tracked = _tracked(seen)
        kept.append(tracked.any(1) & (keeps_look(seen) | ~tracked).all(1) & keep_shapes(part, fps))
    return torch.cat(kept)


def displacement(videos: Tensor, fps: float = 8.0) -> Tensor:
    """Mean way of the objects of each video from one frame to the next, `[batch]`, in shorter sides of the frame.

    NaN where no object is seen in two neighbouring frames.

    Args:
        videos: `[batch, 3, frames, height, width]` in [-1, 1], at least two frames.
        fps: frames a second.
    """
    found = []
    for part in videos.split(128):
        seen = perceive(part, fps)
        way = torch.hypot(seen.x.diff(dim=2), seen.y.diff(dim=2))
        both = seen.present[..., 1:] & seen.present[..., :-1] & _tracked(seen)[..., None]
        found.append((way * both).sum((1, 2)) / both.sum((1, 2)))
    return torch.cat(found)


def psnr(videos: Tensor, reference: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of videos in [-1, 1]: 10 log10(4 / mean squared error)."""
    return float(10 * torch.log10(4 / (videos - reference).pow(2).mean()))
