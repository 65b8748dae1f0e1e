"""Measures of a video that need no weights and no prompt: how much moves, how much flickers, how consistent it is.

They tell what a score of prompt adherence leaves out: a model can be aligned into still or flickering videos.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SIDE = 64
"""Shorter side to which larger videos are reduced before motion is searched."""

BLOCK, REACH = 8, 6
"""Side of a block, and how far it is searched for in the next frame, in reduced pixels."""

COLOUR_LEVELS = 4


def temporal_flickering(videos: Tensor) -> Tensor:
    """VBench's temporal flickering `[batch]` in [0, 1], 1 is steady (arXiv 2311.17982, section 3.1.1).

    1 minus the mean absolute difference of consecutive frames, of pixel values in [0, 1]. VBench measures it on static
    scenes only, since motion lowers it too; `flicker` leaves motion out.

    Args:
        videos: `[batch, 3, frames, height, width]` in [-1, 1]; a single frame gives 1.
    """
    if videos.shape[2] < 2:
        return torch.ones(len(videos), device=videos.device)
    return 1 - videos.float().diff(dim=2).abs().flatten(1).mean(1) / 2


def _reduced(videos: Tensor) -> Tensor:
    """Pixels in [0, 1], reduced by area to a shorter side of at most `SIDE`: `[batch, frames, 3, height, width]`."""
    frames = ((videos.float() + 1) / 2).transpose(1, 2)
    shorter = min(frames.shape[-2:])
    if shorter <= SIDE:
        return frames
    size = [max(BLOCK, round(side * SIDE / shorter)) for side in frames.shape[-2:]]
    small = functional.interpolate(frames.flatten(0, 1), size, mode="area")
    return small.unflatten(0, frames.shape[:2])


def block_motion(videos: Tensor) -> tuple[Tensor, Tensor]:
    """Where each block of a frame went in the next one, by exhaustive search of the smallest absolute difference.

    A block is said to move only where that explains it clearly better than standing still (by a hundredth of the
    pixel range), so that noise and even surfaces do not move.

    Args:
        videos: `[batch, 3, frames, height, width]` in [-1, 1], at least two frames.

    Returns:
        Displacements `[batch, frames - 1, blocks, 2]` (across, down) in shorter sides, and the mean absolute
        difference that is left after it `[batch, frames - 1, blocks]` in [0, 1].
    """
    frames = _reduced(videos)
    height, width = (side // BLOCK * BLOCK for side in frames.shape[-2:])
    if not height or not width:
        raise ValueError(
            f"Frames of {videos.shape[3]}x{videos.shape[4]} are smaller than a block of {BLOCK}."
        )
    frames = frames[..., :height, :width]
    now, following = frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1)
    padded = functional.pad(following, (REACH,) * 4, mode="replicate")
    best = move = None
    shifts = sorted(
        ((x, y) for x in range(-REACH, REACH + 1) for y in range(-REACH, REACH + 1)),
        key=lambda shift: shift[0] ** 2 + shift[1] ** 2,
    )
    for x, y in shifts:
        moved = padded[..., REACH + y : REACH + y + height, REACH + x : REACH + x + width]
        error = functional.avg_pool2d((moved - now).abs().mean(1), BLOCK).flatten(1)
        here = error.new_tensor([x, y]).expand(*error.shape, 2)
        if best is None or move is None:
            best, move = error, here
        else:
            still = (move == 0).all(-1)
            better = error < best - torch.where(still, 0.01, 1e-6)
            best, move = torch.where(better, error, best), torch.where(better[..., None], here, move)
    assert best is not None
    assert move is not None
    shape = (len(videos), frames.shape[1] - 1)
    return move.unflatten(0, shape) / min(frames.shape[-2:]), best.unflatten(0, shape)


def motion_and_flicker(videos: Tensor, fps: float) -> tuple[Tensor, Tensor]:
    """Speed of the fastest parts, and the changes that no motion explains.

    Args:
        videos: `[batch, 3, frames, height, width]` in [-1, 1].
        fps: frames a second.

    Returns:
        motion `[batch]`: speed of the fastest twentieth of the blocks, mean over frame pairs, in shorter sides a second
        (VBench's dynamic degree looks at the fastest twentieth of the optical flow); flicker `[batch]` in [0, 1]: mean
        absolute difference left after motion. Both are 0 for a single frame and for frames smaller than a block.
    """
    if videos.shape[2] < 2 or min(videos.shape[3:]) < BLOCK:
        zero = torch.zeros(len(videos), device=videos.device)
        return zero, zero
    moves, left = block_motion(videos)
    speed = moves.norm(dim=-1)
    count = max(1, round(speed.shape[-1] / 20))
    return speed.topk(count, dim=-1).values.mean((1, 2)) * fps, left.mean((1, 2))


def consistency(videos: Tensor) -> Tensor:
    """Likeness of the colours of all frames `[batch]` in [0, 1].

    VBench's subject consistency, mean over the frames t ≥ 2 of ½(cos(f₁, f_t) + cos(f_{t−1}, f_t)), of colour
    histograms (square roots of the shares of 4×4×4 colours, whose cosine is the Bhattacharyya coefficient) in place of
    DINO features. A single frame gives 1.

    Args:
        videos: `[batch, 3, frames, height, width]` in [-1, 1].
    """
    levels = (((videos.float() + 1) / 2) * COLOUR_LEVELS).long().clamp(0, COLOUR_LEVELS - 1)
    bins = ((levels[:, 0] * COLOUR_LEVELS + levels[:, 1]) * COLOUR_LEVELS + levels[:, 2]).flatten(2)
    counts = torch.zeros(*bins.shape[:2], COLOUR_LEVELS**3, device=videos.device)
    counts.scatter_add_(2, bins, torch.ones_like(bins, dtype=counts.dtype))
    features = (counts / bins.shape[2]).sqrt()
    if features.shape[1] < 2:
        return torch.ones(len(videos), device=videos.device)
    to_first = (features[:, 1:] * features[:, :1]).sum(-1)
    to_previous = (features[:, 1:] * features[:, :-1]).sum(-1)
    return ((to_first + to_previous) / 2).mean(1)


def measure_videos(videos: Tensor, fps: float) -> dict[str, Tensor]:
    """All measures `{name: [batch]}` of videos `[batch, 3, frames, height, width]` in [-1, 1]."""
    with torch.no_grad():
        motion, flicker = motion_and_flicker(videos, fps)
        return {
            "motion": motion,
            "flicker": flicker,
            "temporal_flickering": temporal_flickering(videos),
            "consistency": consistency(videos),
        }
