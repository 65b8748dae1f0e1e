"""Shapes of mattes, found by comparing them with every shape at every orientation and several softnesses."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as functional
from torch import Tensor

from .shapes import SHAPES, SYMMETRY, signed_distance

_PATCH = 20
_PATCH_REACH = 1.9
_ANGLE_STEP = math.radians(7.5)
_SOFTNESS = (0.10, 0.22, 0.36)
STRENGTHS = tuple(1.15**step for step in range(-6, 4))
"""Strengths of ink that are tried; 1 is the palette's own."""
_STRENGTH_PRIOR = 0.04
_STRENGTH_SLACK = 0.07


@lru_cache(maxsize=8)
def _templates(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Unit templates [n, patch * patch], the shape of each [n], and its orientation [n]."""
    fine = 3 * _PATCH
    axis = ((torch.arange(fine) + 0.5) / fine * 2 - 1) * _PATCH_REACH
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    spacing = 2 * _PATCH_REACH / fine
    rows, shapes, angles = [], [], []
    for index, shape in enumerate(SHAPES):
        turns = 1 if shape not in SYMMETRY else round(2 * math.pi / SYMMETRY[shape] / _ANGLE_STEP)
        for turn in range(turns):
            angle = turn * _ANGLE_STEP
            cosine, sine = math.cos(angle), math.sin(angle)
            distance = signed_distance(shape, x * cosine + y * sine, y * cosine - x * sine)
            sharp = (0.5 - distance / spacing).clamp(0, 1)
            for softness in _SOFTNESS:
                soft = functional.avg_pool2d(_gaussian(sharp[None, None], softness / spacing), 3)
                rows.append(soft.flatten())
                shapes.append(index)
                angles.append(angle)
    table = torch.stack(rows)
    table = table - table.mean(1, keepdim=True)
    table = table / table.norm(dim=1, keepdim=True)
    return table.to(device), torch.tensor(shapes, device=device), torch.tensor(angles, device=device)


def _gaussian(image: Tensor, sigma: float) -> Tensor:
    """Blur of [n, 1, h, w] with a Gaussian of `sigma` pixels."""
    half = max(1, math.ceil(3 * sigma))
    kernel = torch.exp(-(torch.arange(-half, half + 1) ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    image = functional.conv2d(image, kernel[None, None, :, None], padding=(half, 0))
    return functional.conv2d(image, kernel[None, None, None, :], padding=(0, half))


def _match(mattes: Tensor, x: Tensor, y: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Correlation with each shape [n, 6] and its orientation [n, 6] of mattes [n, h, w] at x, y, radius in pixels."""
    height, width = mattes.shape[-2:]
    device = mattes.device
    axis = ((torch.arange(_PATCH, device=device) + 0.5) / _PATCH * 2 - 1) * _PATCH_REACH
    column = (x[:, None] + radius[:, None] * axis) / width * 2 - 1
    row = (y[:, None] + radius[:, None] * axis) / height * 2 - 1
    grid = torch.stack(
        [column[:, None, :].expand(-1, _PATCH, -1), row[:, :, None].expand(-1, -1, _PATCH)], dim=-1
    )
    patch = functional.grid_sample(mattes[:, None], grid, align_corners=False).flatten(1)
    patch = patch - patch.mean(1, keepdim=True)
    patch = patch / patch.norm(dim=1, keepdim=True).clamp_min(1e-6)
    table, shapes, angles = _templates(device)
    scores = patch @ table.T
    likeness, orientation = [], []
    for index in range(len(SHAPES)):
        columns = (shapes == index).nonzero()[:, 0]
        best, where = scores[:, columns[0] : columns[-1] + 1].max(1)
        likeness.append(best)
        orientation.append(angles[columns[0] + where])
    return torch.stack(likeness, 1), torch.stack(orientation, 1)


def match_strengths(
    mattes: Tensor, x: Tensor, y: Tensor, radius: Tensor, present: Tensor
) -> tuple[Tensor, Tensor]:
    """`_match` under each of `STRENGTHS`, for the objects that are there: two [n, strengths, 6], 0 elsewhere.

    Under a strength s of its ink an object of a given sum of the matte has 1 / s times the area.
    """
    there = present.nonzero()[:, 0]
    likeness = mattes.new_zeros(len(mattes), len(STRENGTHS), len(SHAPES))
    angle = torch.zeros_like(likeness)
    mattes, x, y, radius = mattes[there], x[there], y[there], radius[there]
    for index, strength in enumerate(STRENGTHS):
        likeness[there, index], angle[there, index] = _match(mattes, x, y, radius / math.sqrt(strength))
    return likeness, angle


def fit_strength(likeness: Tensor) -> tuple[Tensor, Tensor]:
    """Strength of each object's ink, from its mean likeness [batch, tracks, strengths, 6] over the clip.

    The best fit, where the palette's own strength of 1 is what is expected: a blurred object in full colour and a
    sharp one in half the colour are close. Deviations from 1 that the softness of an outline makes, too, do not count.

    Returns:
        Index into `STRENGTHS`, and the strength, interpolated by a parabola: two [batch, tracks].
    """
    logarithm = likeness.new_tensor(STRENGTHS).log()
    fit = likeness.amax(-1) - _STRENGTH_PRIOR * logarithm**2
    index = fit.argmax(-1)
    inner = index.clamp(1, len(STRENGTHS) - 2)
    before, at, after = (fit.gather(-1, (inner + step)[..., None])[..., 0] for step in (-1, 0, 1))
    bend = (2 * at - before - after).clamp_min(1e-6)
    shift = ((after - before) / (2 * bend)).clamp(-1, 1)
    found = logarithm[inner] + shift * (logarithm[1] - logarithm[0])
    return index, (found.sign() * (found.abs() - _STRENGTH_SLACK).clamp_min(0)).exp()
