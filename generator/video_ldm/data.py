"""Clips that temporal layers are trained on, and the frames of them that are given as context."""

from __future__ import annotations

import torch
from torch import Tensor

from generator.pretraining.data import ClipKind, shares

Sizes = tuple[tuple[int, int, int, float, float], ...]

MIX: dict[str, Sizes] = {
    "generation": (
        (9, 32, 32, 8.0, 4.0),
        (9, 32, 32, 4.0, 1.0),
        (9, 32, 32, 2.0, 3.0),
        (17, 32, 32, 8.0, 0.5),
        (9, 48, 48, 8.0, 0.5),
        (9, 64, 64, 8.0, 0.5),
        (9, 64, 64, 2.0, 0.5),
    ),
    "prediction": (
        (9, 32, 32, 8.0, 2.0),
        (9, 32, 32, 4.0, 1.0),
        (9, 32, 32, 2.0, 4.0),
        (9, 64, 64, 2.0, 0.5),
    ),
    "interpolation": (
        (9, 32, 32, 8.0, 4.0),
        (9, 32, 32, 32.0, 4.0),
        (9, 32, 32, 16.0, 0.5),
        (5, 32, 32, 8.0, 0.5),
        (5, 32, 32, 32.0, 0.5),
        (9, 64, 64, 8.0, 0.5),
        (9, 64, 64, 32.0, 0.5),
    ),
}
"""By task: `(frames, height, width, fps, weight)` of the clips. The last two frame rates of the stack are those of
interpolation I and II."""

GAP = 4
"""Frames from one key frame to the next: three new ones lie between two."""
MOST_CONTEXT = 4
"""Most context frames of the prediction model."""


def video_mix(task: str) -> dict[ClipKind, float]:
    """Kinds of clips with their shares of the batches; the shares sum to 1."""
    return shares({ClipKind(f, h, w, fps, True): weight for f, h, w, fps, weight in MIX[task]})


def sample_context(
    task: str, clips: int, frames: int, generator: torch.Generator, share: float = 1.0
) -> Tensor:
    """Draws the context frames of each clip, `[clips, frames]`.

    Args:
        task: interpolation gives every fourth frame; prediction the first ones, up to `MOST_CONTEXT`, and generation
            the same in `share` of the clips and none in the others.
        generator: on the CPU.
        share: of the clips of generation that have context.
    """
    place = torch.arange(frames).expand(clips, frames)
    if task == "interpolation":
        return place % GAP == 0
    number = torch.randint(1, min(MOST_CONTEXT, frames - 1) + 1, (clips, 1), generator=generator)
    has = torch.rand(clips, 1, generator=generator) < share
    return (place < number) & (has if task == "generation" else torch.ones_like(has))


def context_levels(sigma: Tensor, known: Tensor, hidden: Tensor) -> Tensor:
    """Noise level of each frame, `[clips, frames]`: 0 for context, 1 for context that is hidden, `sigma` for others.

    Args:
        sigma: `[clips]`.
        known: context frames, `[clips, frames]`.
        hidden: clips whose context is hidden, `[clips]`: pure noise in its place says nothing (the unconditional branch
            of guidance on the context; Song et al., arXiv 2502.06764).
    """
    levels = torch.where(known, 0.0, sigma[:, None])
    return torch.where(known & hidden[:, None], 1.0, levels)
