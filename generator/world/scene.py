"""Scenes: the looks and motions of objects, background and camera, with nothing left open.

Coordinates: the frame's shorter side is 1, the origin is its centre, x to the right, y downwards; time is in seconds
from the middle of the clip.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

SLOTS = 3


@dataclass
class SceneBatch:
    """A batch of scenes. Fields of objects are [batch, 3], fields of the world [batch].

    Attributes:
        on: whether the slot holds an object.
        shape, colour: indices into `SHAPES` and `COLOURS`.
        radius: equal-area radius at mid-clip.
        x, y, vx, vy: place at mid-clip and velocity, in shorter sides (per second).
        growth: rate of the logarithm of the radius, per second.
        angle, spin: orientation at mid-clip and its rate, in radians (per second).
        orbit_radius, orbit_rate, orbit_phase: circular motion around (x, y).
        bounce_height, bounce_rate, bounce_phase: hops above (x, y), rate in hops per second.
        background: grey level in [0, 1].
        texture, texture_x, texture_y: amplitude and phases of the soft pattern that makes camera motion visible.
        pan: speed of the camera to the right; zoom: rate of the logarithm of the magnification.
    """

    on: Tensor
    shape: Tensor
    colour: Tensor
    radius: Tensor
    x: Tensor
    y: Tensor
    vx: Tensor
    vy: Tensor
    growth: Tensor
    angle: Tensor
    spin: Tensor
    orbit_radius: Tensor
    orbit_rate: Tensor
    orbit_phase: Tensor
    bounce_height: Tensor
    bounce_rate: Tensor
    bounce_phase: Tensor
    background: Tensor
    texture: Tensor
    texture_x: Tensor
    texture_y: Tensor
    pan: Tensor
    zoom: Tensor

    def __len__(self) -> int:
        return self.on.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SceneBatch:
        """The same scenes on another device."""
        return SceneBatch(*(value.to(device, non_blocking=non_blocking) for value in self.tensors()))

    def index(self, rows: Tensor | slice | Sequence[int]) -> SceneBatch:
        """The scenes at `rows`."""
        if not isinstance(rows, slice):
            rows = torch.as_tensor(rows, device=self.on.device)
        return SceneBatch(*(value[rows] for value in self.tensors()))

    def tensors(self) -> list[Tensor]:
        """All fields, in order; `SceneBatch(*tensors)` is the inverse."""
        return [getattr(self, field.name) for field in fields(self)]

    def pack(self) -> Tensor:
        """All fields as one float32 tensor [batch, columns], cheap to send between processes and devices."""
        return torch.cat([value.float().reshape(len(self), -1) for value in self.tensors()], dim=1)

    @staticmethod
    def unpack(packed: Tensor) -> SceneBatch:
        """The inverse of `pack`."""
        columns = iter(packed.unbind(1))
        values = []
        for field in fields(SceneBatch):
            if field.name in _PER_SCENE:
                values.append(next(columns))
                continue
            value = torch.stack([next(columns) for _ in range(SLOTS)], dim=1)
            values.append(value.to(_DTYPES.get(field.name, torch.float32)))
        return SceneBatch(*values)

    @staticmethod
    def concatenate(batches: Sequence[SceneBatch]) -> SceneBatch:
        """Joins batches of scenes."""
        return SceneBatch(
            *(torch.cat(parts) for parts in zip(*(batch.tensors() for batch in batches), strict=True))
        )


_PER_SCENE = {"background", "texture", "texture_x", "texture_y", "pan", "zoom"}
_DTYPES = {"on": torch.bool, "shape": torch.long, "colour": torch.long}


def offsets(scenes: SceneBatch, times: Tensor) -> tuple[Tensor, Tensor]:
    """Each object's place relative to (x, y) at `times` [F], as two tensors [batch, 3, F], in the world."""
    angle = scenes.orbit_rate[..., None] * times + scenes.orbit_phase[..., None]
    hop = (math.pi * (scenes.bounce_rate[..., None] * times + scenes.bounce_phase[..., None])).sin().abs()
    dx = scenes.vx[..., None] * times + scenes.orbit_radius[..., None] * angle.cos()
    dy = scenes.vy[..., None] * times + scenes.orbit_radius[..., None] * angle.sin()
    return dx, dy - scenes.bounce_height[..., None] * hop


def frame_times(num_frames: int, fps: float, device: torch.device | None = None) -> Tensor:
    """Seconds from the middle of the clip, [num_frames]."""
    return (torch.arange(num_frames, device=device) - (num_frames - 1) / 2) / fps
