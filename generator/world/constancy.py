"""Objects that keep their shape: whether each object of a video looks like one shape in all of its frames."""

from __future__ import annotations

import torch
from torch import Tensor

from .perceive import perceive


def keep_shapes(videos: Tensor, fps: float = 8, margin: float = 0.02) -> Tensor:
    """Returns whether every object of a video is seen, and keeps its shape, in every frame.

    Small drawings of two shapes can be equally like both; so a frame counts as another shape only where that one
    correlates with the matte by `margin` more than the shape of the whole clip does.

    Args:
        videos: `[batch, 3, frames, height, width]` in [-1, 1].
        fps: frames a second.
        margin: of the correlation.

    Returns:
        `[batch]` of bool; a video in which no object is seen in most frames keeps nothing.
    """
    kept = []
    for part in videos.split(128):
        seen = perceive(part, fps)
        frames = seen.present.shape[2]
        share = seen.present.float().mean(2)
        tracked = share >= 0.5
        whole = (seen.swap <= margin).all(2) & (seen.present.sum(2) == frames)
        kept.append(tracked.any(1) & (whole | ~tracked).all(1))
    return torch.cat(kept)
