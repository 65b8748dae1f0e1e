"""Shapes and colours of the video world: signed distances, extents, palette.

Every shape is normalised so that its area is that of a disc of radius 1 (the *equal-area radius*), so that size and
shape are independent claims. Proportions are chosen so that shapes stay apart at 32x32 pixels: thin arms of the
cross, a large hole in the ring, deep notches in the star.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")

SYMMETRY = {"square": 4, "triangle": 3, "star": 5, "cross": 4}
"""Order of rotational symmetry of the shapes whose rotation shows."""

PALETTE = torch.tensor(
    [
        (0.95, 0.03, 0.08),
        (1.00, 0.52, 0.00),
        (0.93, 0.95, 0.00),
        (0.02, 0.78, 0.06),
        (0.00, 0.88, 0.88),
        (0.02, 0.16, 0.95),
        (0.56, 0.02, 0.95),
        (1.00, 0.08, 0.70),
    ]
)
"""RGB in [0, 1] of `COLOURS`; neighbours are at least 30 degrees apart in the chroma plane."""

_STAR_INNER = 0.42
_RING_HOLE = 0.58
_CROSS_ARM = 0.27
_STAR_RADIUS = math.sqrt(math.pi / (5 * _STAR_INNER * math.sin(math.pi / 5)))
_TRIANGLE_RADIUS = math.sqrt(4 * math.pi / (3 * math.sqrt(3)))
_RING_RADIUS = 1 / math.sqrt(1 - _RING_HOLE**2)
_CROSS_LENGTH = math.sqrt(math.pi / (8 * _CROSS_ARM - 4 * _CROSS_ARM**2))
_SQUARE_HALF = math.sqrt(math.pi) / 2

REACH = torch.tensor(
    [
        1.0,
        _SQUARE_HALF * math.sqrt(2),
        _TRIANGLE_RADIUS,
        _STAR_RADIUS,
        _RING_RADIUS,
        _CROSS_LENGTH * math.sqrt(1 + _CROSS_ARM**2),
    ]
)
"""Radius of the enclosing circle of each shape, in equal-area radii."""

HALF_WIDTH = torch.tensor(
    [
        1.0,
        _SQUARE_HALF,
        _TRIANGLE_RADIUS * math.sqrt(3) / 2,
        _STAR_RADIUS * math.sin(2 * math.pi / 5),
        _RING_RADIUS,
        _CROSS_LENGTH,
    ]
)
HALF_HEIGHT = torch.tensor([1.0, _SQUARE_HALF, _TRIANGLE_RADIUS, _STAR_RADIUS, _RING_RADIUS, _CROSS_LENGTH])
"""Half width and half height of each upright shape, in equal-area radii."""


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    dx, dy = x.abs() - half_width, y.abs() - half_height
    return torch.hypot(dx.clamp_min(0), dy.clamp_min(0)) + torch.maximum(dx, dy).clamp_max(0)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    inner = _TRIANGLE_RADIUS / 2
    slanted = math.sqrt(3) / 2 * x.abs() - 0.5 * y
    return torch.maximum(slanted, y) - inner


def _star(x: Tensor, y: Tensor) -> Tensor:
    """Exact distance to the edge from tip to notch, after folding the plane into one tenth of the star."""
    sector = 2 * math.pi / 5
    angle = torch.atan2(x, -y)
    angle = (torch.remainder(angle + sector / 2, sector) - sector / 2).abs()
    length = torch.hypot(x, y)
    along, across = length * angle.cos(), length * angle.sin()
    tip_x = _STAR_RADIUS
    notch_x = _STAR_RADIUS * _STAR_INNER * math.cos(sector / 2)
    notch_y = _STAR_RADIUS * _STAR_INNER * math.sin(sector / 2)
    edge_x, edge_y = notch_x - tip_x, notch_y
    share = (((along - tip_x) * edge_x + across * edge_y) / (edge_x**2 + edge_y**2)).clamp(0, 1)
    distance = torch.hypot(along - tip_x - share * edge_x, across - share * edge_y)
    outside = edge_x * across - edge_y * (along - tip_x)
    return torch.where(outside < 0, distance, -distance)


def signed_distance(shape: str, x: Tensor, y: Tensor) -> Tensor:
    """Distance to the outline of `shape` (negative inside), all lengths in equal-area radii, y downwards."""
    if shape == "circle":
        return torch.hypot(x, y) - 1
    if shape == "square":
        return _box(x, y, _SQUARE_HALF, _SQUARE_HALF)
    if shape == "triangle":
        return _triangle(x, y)
    if shape == "star":
        return _star(x, y)
    if shape == "ring":
        middle, half = _RING_RADIUS * (1 + _RING_HOLE) / 2, _RING_RADIUS * (1 - _RING_HOLE) / 2
        return (torch.hypot(x, y) - middle).abs() - half
    if shape == "cross":
        arm = _CROSS_LENGTH * _CROSS_ARM
        return torch.minimum(_box(x, y, _CROSS_LENGTH, arm), _box(x, y, arm, _CROSS_LENGTH))
    raise ValueError(f"Shape {shape!r} is unknown: name one of {', '.join(SHAPES)}.")
