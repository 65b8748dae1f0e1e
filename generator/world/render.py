"""Renders scenes as anti-aliased video, batched, on any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .grammar import parse
from .scene import SceneBatch, frame_times, offsets
from .scene_sampling import sample_scenes
from .shapes import PALETTE, SHAPES, signed_distance

TEXTURE_PERIOD = 0.45
"""Wavelength of the background's soft pattern in shorter sides."""


def render_scenes(
    scenes: SceneBatch,
    num_frames: int,
    height: int,
    width: int,
    fps: float = 8,
    device: torch.device | None = None,
) -> Tensor:
    """Video [batch, 3, num_frames, height, width] in [-1, 1] on `device`, by default that of `scenes`.

    Scenes on the CPU that are rendered on a GPU cost no synchronisation.
    """
    shapes, on = scenes.shape.cpu(), scenes.on.cpu()
    device = device or scenes.on.device
    scenes = scenes.to(device, non_blocking=True)
    times = frame_times(num_frames, fps, device)
    shorter = min(height, width)
    screen_x = ((torch.arange(width, device=device) + 0.5) - width / 2) / shorter
    screen_y = ((torch.arange(height, device=device) + 0.5) - height / 2) / shorter
    magnification = (scenes.zoom[:, None] * times).exp()
    camera_x = scenes.pan[:, None] * times
    video = _background(scenes, screen_x, screen_y, camera_x, magnification)
    video = video[:, None].repeat(1, 3, 1, 1, 1)

    dx, dy = offsets(scenes, times)
    centre_x = (scenes.x[..., None] + dx - camera_x[:, None]) * magnification[:, None]
    centre_y = (scenes.y[..., None] + dy) * magnification[:, None]
    radius = scenes.radius[..., None] * (scenes.growth[..., None] * times).exp() * magnification[:, None]
    angle = scenes.angle[..., None] + scenes.spin[..., None] * times
    palette = PALETTE.to(device)
    for index, shape in enumerate(SHAPES):
        rows, slots = ((shapes == index) & on).nonzero(as_tuple=True)
        if len(rows) == 0:
            continue
        rows, slots = rows.to(device), slots.to(device)
        r = radius[rows, slots][:, :, None, None]
        x = (screen_x - centre_x[rows, slots][:, :, None, None]) / r
        y = (screen_y[:, None] - centre_y[rows, slots][:, :, None, None]) / r
        if shape not in ("circle", "ring"):
            cosine, sine = (
                angle[rows, slots][:, :, None, None].cos(),
                angle[rows, slots][:, :, None, None].sin(),
            )
            x, y = x * cosine + y * sine, y * cosine - x * sine
        alpha = (0.5 - signed_distance(shape, *torch.broadcast_tensors(x, y)) * (r * shorter)).clamp_(0, 1)
        colour = palette[scenes.colour[rows, slots]][:, :, None, None, None]
        # Objects of one clip never overlap, so the order does not matter; but two slots may share a row, and only
        # an accumulating write keeps both.
        video.index_add_(0, rows, alpha[:, None] * (colour - video[rows]))
    return video.mul_(2).sub_(1)


def _background(
    scenes: SceneBatch, screen_x: Tensor, screen_y: Tensor, camera_x: Tensor, magnification: Tensor
) -> Tensor:
    """Grey levels [batch, frames, height, width] in [0, 1], the soft pattern moving with the camera."""
    wave = 2 * math.pi / TEXTURE_PERIOD
    x = screen_x / magnification[..., None] + camera_x[..., None]
    y = screen_y / magnification[..., None]
    across = (wave * x + scenes.texture_x[:, None, None]).cos()[:, :, None, :]
    along = (wave * y + scenes.texture_y[:, None, None]).cos()[:, :, :, None]
    return scenes.background[:, None, None, None] + scenes.texture[:, None, None, None] * (across + along)


def render(
    prompt: str, num_frames: int = 9, height: int = 32, width: int = 32, fps: float = 8, seed: int = 0
) -> Tensor:
    """One video [3, num_frames, height, width] in [-1, 1] that shows `prompt`; the seed fills in what is unsaid.

    Raises:
        InputError: the prompt is not understood, or does not fit into a clip of that size.
    """
    scenes = sample_scenes([parse(prompt)], seed, num_frames, height, width, fps)
    return render_scenes(scenes, num_frames, height, width, fps)[0]
