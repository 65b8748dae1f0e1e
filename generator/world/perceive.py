"""Perception: objects and their tracks, the background and the camera, from the pixels of any video.

Backgrounds of the world are achromatic and objects are saturated, so the chroma of a pixel says how much of it an
object covers: connected components of the chroma are objects, the projection on an object's palette colour is its
matte up to the strength of its ink, which a tint changes, and moments of the matte are sub-pixel centroid and area.
The shape is found by analysis by synthesis: the matte, scaled to unit area under several strengths of ink, is
correlated with every shape at every orientation and several softnesses; the best fit over the clip tells shape and
strength together.
Everything is batched and runs on the device of the videos; no prompt is known here.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, fields
from functools import lru_cache

import torch
import torch.nn.functional as functional
from torch import Tensor

from .scene import frame_times
from .shape_matching import STRENGTHS, fit_strength, match_strengths
from .shapes import PALETTE, SHAPES

TRACKS = 4
"""Objects followed in a clip: one more than a prompt can ask for."""

_MASK = 0.42
_FAINT = 0.3
_INK = 0.4
_LUMA_WEIGHT = 0.5
_LEAST_AREA = 0.004
_HAZE = 0.12


@dataclass
class Perception:
    """Everything that was seen. Lengths in shorter sides, the origin at the frame's centre, y downwards.

    Attributes:
        present: [batch, tracks, frames] whether the object was seen in the frame.
        x, y: [batch, tracks, frames] centroid.
        radius: [batch, tracks, frames] equal-area radius.
        chroma: [batch, tracks, frames, 2] mean chroma of the object's core.
        angle: [batch, tracks, frames] orientation under the best shape, modulo its symmetry, in radians.
        likeness: [batch, tracks, 6] mean correlation of the matte with each of `SHAPES`.
        constancy: [batch, tracks] share of the frames that look most like the shape of the whole clip.
        swap: [batch, tracks, frames] by how much the frame's best shape correlates more than that of the whole clip.
        grey: [batch, frames] grey level of the background in [0, 1].
        tint: [batch, frames] mean chroma of the background.
        unexplained: [batch] share of the frame covered by colour that belongs to no track.
        pan_x, pan_y, zoom: [batch] velocity of the camera and rate of its logarithmic magnification, per second.
        times: [frames] seconds from the middle of the clip.
    """

    present: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    chroma: Tensor
    angle: Tensor
    likeness: Tensor
    constancy: Tensor
    swap: Tensor
    grey: Tensor
    tint: Tensor
    unexplained: Tensor
    pan_x: Tensor
    pan_y: Tensor
    zoom: Tensor
    times: Tensor

    def cpu(self) -> Perception:
        """The same on the CPU."""
        return Perception(*(getattr(self, field.name).cpu() for field in fields(self)))


def to_chroma(rgb: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Grey level and the two coordinates in the plane orthogonal to it (an orthonormal basis but for the grey)."""
    red, green, blue = rgb.unbind(dim)
    grey = (red + green + blue) / 3
    return grey, (2 * red - green - blue) / math.sqrt(6), (green - blue) / math.sqrt(2)


@lru_cache(maxsize=8)
def _palette(device: torch.device) -> Tensor:
    """Grey and chroma of the palette's colours, [colours, 3]."""
    return torch.stack(to_chroma(PALETTE, 1), dim=1).to(device)


def _soften(planes: Tensor) -> Tensor:
    """Binomial 3x3 filter of [..., h, w], edges repeated."""
    padded = functional.pad(planes, (1, 1, 1, 1), mode="replicate")
    rows = padded[..., :-2, :] + 2 * padded[..., 1:-1, :] + padded[..., 2:, :]
    return (rows[..., :-2] + 2 * rows[..., 1:-1] + rows[..., 2:]) / 16


def _widest(labels: Tensor) -> Tensor:
    """Maximum over each pixel's 3x3 neighbourhood (many times faster than max_pool2d on a CPU)."""
    rows = labels.clone()
    torch.maximum(rows[:, 1:], labels[:, :-1], out=rows[:, 1:])
    torch.maximum(rows[:, :-1], labels[:, 1:], out=rows[:, :-1])
    both = rows.clone()
    torch.maximum(both[..., 1:], rows[..., :-1], out=both[..., 1:])
    torch.maximum(both[..., :-1], rows[..., 1:], out=both[..., :-1])
    return both


def _components(mask: Tensor) -> Tensor:
    """Connected components (8 neighbours) of masks [n, h, w]: labels, 0 = none, as float [n, h, w]."""
    _, height, width = mask.shape
    own = torch.arange(1, height * width + 1, device=mask.device, dtype=torch.float32).view(1, height, width)
    labels = own * mask
    for _ in range(height + width):
        before = labels
        for _ in range(6):
            labels = _widest(labels) * mask
        if torch.equal(before, labels):
            break
    return labels


def _coloured(strength: Tensor, loudness: Tensor) -> Tensor:
    """Components of the objects in images of chroma [n, h, w]: labels as `_components` has them.

    An object ends where its chroma falls below a share of its own peak, or of the palette's `loudness` where it is
    more colourful than that: pale and dark tints are outlined as vivid ones are.
    """
    labels = _components((strength > _FAINT * loudness).float())
    flat = labels.flatten(1).long()
    peak = strength.new_zeros(len(flat), flat.shape[1] + 1)
    peak.scatter_reduce_(1, flat, strength.flatten(1), "amax")
    least = torch.where(peak > _INK * loudness, _MASK * peak.clamp_max(loudness), torch.inf)
    least[:, 0] = torch.inf
    return _components((strength > least.gather(1, flat).view_as(strength)).float())


def _largest(labels: Tensor) -> Tensor:
    """Labels of the largest components of each image, [n, TRACKS], -1 where there is none."""
    n = labels.shape[0]
    flat = labels.flatten(1).long()
    sizes = torch.zeros(n, flat.shape[1] + 1, device=labels.device)
    sizes.scatter_add_(1, flat, torch.ones_like(sizes[:, 1:]))
    sizes[:, 0] = 0
    top, index = sizes.topk(TRACKS, dim=1)
    return torch.where(top > 0, index, -1).to(labels.dtype)


def _follow(x: Tensor, y: Tensor, radius: Tensor, chroma: Tensor, present: Tensor) -> Tensor:
    """For each frame the component [batch, frames, TRACKS] of each track: the cheapest matching frame by frame."""
    batch, frames, count = x.shape
    orders = torch.tensor(list(itertools.permutations(range(count))), device=x.device)
    order = torch.arange(count, device=x.device).repeat(batch, 1)
    chosen = [order]
    features = torch.stack([x, y, radius, *(0.4 * chroma).unbind(-1)], dim=-1)
    last, seen = features[:, 0], present[:, 0]
    rows = torch.arange(batch, device=x.device)[:, None]
    slots = torch.arange(count, device=x.device)
    for frame in range(1, frames):
        cost = (last[:, :, None] - features[:, frame, None, :]).norm(dim=-1).clamp_max(0.8)
        both = seen[:, :, None] & present[:, frame, None, :]
        cost = torch.where(both, cost, torch.full_like(cost, 0.8))
        total = cost[:, slots, orders].sum(-1)
        order = orders[total.argmin(1)]
        chosen.append(order)
        now = present[rows, frame, order]
        last = torch.where(now[..., None], features[rows, frame, order], last)
        seen = seen | now
    return torch.stack(chosen, dim=1)


def _camera(grey: Tensor, ground: Tensor, shorter: int, frame_rate: float) -> tuple[Tensor, Tensor, Tensor]:
    """Least-squares optical flow (Lucas and Kanade, 1981) of the background: translation and magnification.

    Args:
        grey: [batch, frames, height, width].
        ground: where the background is seen, the same shape.
    """
    batch, frames, height, width = grey.shape
    if frames == 1:
        zero = grey.new_zeros(batch)
        return zero, zero, zero
    cell = max(1, round(shorter / 16))
    weight = functional.avg_pool2d(ground, cell)
    small = functional.avg_pool2d(grey * ground, cell) / weight.clamp_min(1e-3)
    valid = (weight > 0.4).float()
    mean = (small * valid).sum((1, 2, 3), keepdim=True) / valid.sum((1, 2, 3), keepdim=True).clamp_min(1)
    small = _soften((small - mean) * valid) / _soften(valid).clamp_min(0.25)
    middle = (small[:, 1:] + small[:, :-1]) / 2
    slope_x = (middle[..., 1:-1, 2:] - middle[..., 1:-1, :-2]) / 2
    slope_y = (middle[..., 2:, 1:-1] - middle[..., :-2, 1:-1]) / 2
    inner = valid[..., 1:-1, 1:-1] * valid[..., 1:-1, 2:] * valid[..., 1:-1, :-2]
    inner = inner * valid[..., 2:, 1:-1] * valid[..., :-2, 1:-1]
    inner = inner[:, 1:] * inner[:, :-1]
    change = (small[:, 1:] - small[:, :-1])[..., 1:-1, 1:-1]
    rows, columns = small.shape[-2:]
    x = (torch.arange(1, columns - 1, device=grey.device) + 0.5) - width / cell / 2
    y = (torch.arange(1, rows - 1, device=grey.device) + 0.5) - height / cell / 2
    radial = slope_x * x + slope_y * y[:, None]
    basis = torch.stack([slope_x, slope_y, radial], dim=-1) * inner[..., None]
    basis = basis.flatten(1, 3)
    ridge = torch.diag(grey.new_tensor([0.02, 0.02, 0.4])) * (frames - 1) / 8
    normal = basis.transpose(1, 2) @ basis + ridge
    flow = torch.linalg.solve(normal, -(basis * change.flatten(1)[..., None]).sum(1))
    per_second = frame_rate * cell / shorter
    return -flow[:, 0] * per_second, -flow[:, 1] * per_second, flow[:, 2] * frame_rate


@dataclass(frozen=True)
class _Mattes:
    """Objects and ground of single images.

    Attributes:
        alpha: `[images, tracks, height, width]` share of each pixel that the object of a track covers, times the
            strength of its ink: 1 in the palette's colours.
        chroma: `[images, tracks, 2]` its mean chroma.
        grey: `[images, height, width]` luma.
        ground: `[images, height, width]` 1 where there is no object.
        ground_grey, tint: `[images]` mean luma of the ground and how far it is from grey.
        present: `[images, tracks]` whether an object is large enough to count.
        unexplained: `[images]` colour that belongs to no object, relative to the palette's.
    """

    alpha: Tensor
    chroma: Tensor
    grey: Tensor
    ground: Tensor
    ground_grey: Tensor
    tint: Tensor
    present: Tensor
    unexplained: Tensor


def _mattes(rgb: Tensor) -> _Mattes:
    """Separates the coloured objects of images `[batch, 3, frames, height, width]` in [0, 1] from the ground."""
    batch, _, frames, height, width = rgb.shape
    images = batch * frames
    grey, first, second = (plane.reshape(images, height, width) for plane in to_chroma(rgb, 1))
    soft_first, soft_second = _soften(torch.stack([first, second], 1)).unbind(1)
    strength = torch.hypot(soft_first, soft_second)
    loudness = _palette(rgb.device)[:, 1:].norm(dim=1).mean()
    labels = _coloured(strength, loudness)
    top = _largest(labels)
    spread = labels
    for _ in range(2):
        spread = torch.where(spread > 0, spread, _widest(spread))

    ground = (spread == 0).float()
    ground_sum = ground.sum((1, 2)).clamp_min(1)
    ground_grey = (grey * ground).sum((1, 2)) / ground_sum
    tint = torch.hypot((first * ground).sum((1, 2)) / ground_sum, (second * ground).sum((1, 2)) / ground_sum)
    belongs = (spread[:, None] == top[:, :, None, None]).float()
    core = (labels[:, None] == top[:, :, None, None]).float()
    weight = (core * strength[:, None] ** 2).flatten(2)
    chroma = torch.stack([first.flatten(1), second.flatten(1)], -1)
    chroma = (weight @ chroma) / weight.sum(2, keepdim=True).clamp_min(1e-6)
    planes = torch.stack([_LUMA_WEIGHT * (grey - ground_grey[:, None, None]), first, second], 1).flatten(2)
    direction = _ink_direction(chroma, ground_grey)
    alpha = (direction @ planes).view(images, TRACKS, height, width) * belongs

    present = alpha.sum((2, 3)) > _LEAST_AREA * min(height, width) ** 2
    lost = ((ground + (belongs * ~present[..., None, None]).sum(1)).clamp_max(1)) * (
        strength - _HAZE
    ).clamp_min(0)
    other = ((spread > 0) & (belongs.sum(1) == 0)).float() * strength
    unexplained = (lost + other).mean((1, 2)) / loudness
    return _Mattes(alpha, chroma, grey, ground, ground_grey, tint, present, unexplained)


def _ink_direction(chroma: Tensor, ground_grey: Tensor) -> Tensor:
    """Projection `[images, tracks, 3]` of (luma, chroma) off the ground onto the palette colour next to `chroma`.

    It is 0 for the ground and 1 for the full colour.
    """
    palette = _palette(chroma.device)
    hue = functional.normalize(chroma, dim=-1) @ functional.normalize(palette[:, 1:], dim=1).T
    ink = palette[hue.argmax(-1)]
    contrast = _LUMA_WEIGHT * (ink[..., 0] - ground_grey[:, None])
    power = contrast**2 + ink[..., 1] ** 2 + ink[..., 2] ** 2
    return torch.stack([contrast, ink[..., 1], ink[..., 2]], -1) / power[..., None]


def _tracks(mattes: _Mattes, batch: int) -> dict[str, Tensor]:
    """Place, size, colour and shape of each object over time, `[batch, tracks, frames, …]`."""
    alpha = mattes.alpha
    images, _, height, width = alpha.shape
    shorter, frames = min(height, width), images // batch
    columns = torch.arange(width, device=alpha.device) + 0.5
    rows = torch.arange(height, device=alpha.device) + 0.5
    safe = alpha.sum((2, 3)).clamp_min(1e-3)
    x, y = (alpha.sum(2) * columns).sum(2) / safe, (alpha.sum(3) * rows).sum(2) / safe
    radius = (safe / math.pi).sqrt()
    places = (value.flatten() for value in (x, y, radius.clamp_min(0.5), mattes.present))
    likeness, angle = match_strengths(alpha.flatten(0, 1), *places)
    values = {
        "present": mattes.present,
        "x": (x - width / 2) / shorter,
        "y": (y - height / 2) / shorter,
        "radius": radius / shorter,
        "chroma": mattes.chroma,
        "likeness": likeness.view(images, TRACKS, len(STRENGTHS), -1),
        "angle": angle.view(images, TRACKS, len(STRENGTHS), -1),
    }
    values = {name: value.view(batch, frames, TRACKS, *value.shape[2:]) for name, value in values.items()}
    order = _follow(*(values[name] for name in ("x", "y", "radius", "chroma", "present")))
    at = (torch.arange(batch)[:, None, None], torch.arange(frames)[None, :, None], order.cpu())
    values = {name: value[at].transpose(1, 2) for name, value in values.items()}
    seen = values["present"].float().sum(2).clamp_min(1)
    index, strength = fit_strength(values["likeness"].sum(2) / seen[..., None, None])
    values["radius"] = values["radius"] / strength.sqrt()[..., None]
    for name in ("likeness", "angle"):
        chosen = index[..., None, None, None].expand(-1, -1, frames, 1, len(SHAPES))
        values[name] = values[name].gather(3, chosen)[:, :, :, 0]
    return values


def perceive(videos: Tensor, fps: float = 8) -> Perception:
    """Objects, background and camera of videos [batch, 3, frames, height, width] in [-1, 1]."""
    rgb = ((videos.float() + 1) / 2).clamp(0, 1)
    factor = min(videos.shape[-2:]) // 48
    if factor > 1:
        rgb = functional.avg_pool3d(rgb, (1, factor, factor))
    batch, _, frames, height, width = rgb.shape
    mattes = _mattes(rgb)
    values = _tracks(mattes, batch)
    seen = values["present"].float()[..., None]
    mean_likeness = values["likeness"].sum(2) / seen.sum(2).clamp_min(1)
    best = mean_likeness.argmax(-1)[:, :, None, None].expand(-1, -1, frames, 1)
    alike = (values["likeness"].argmax(-1, keepdim=True) == best).float() * seen
    pan_x, pan_y, zoom = _camera(
        mattes.grey.view(batch, frames, height, width),
        (1 - _widest(1 - mattes.ground)).view(batch, frames, height, width),
        min(height, width),
        fps,
    )
    return Perception(
        present=values["present"],
        x=values["x"],
        y=values["y"],
        radius=values["radius"],
        chroma=values["chroma"],
        angle=values["angle"].gather(3, best)[..., 0],
        likeness=mean_likeness,
        constancy=alike.sum((2, 3)) / seen.sum((2, 3)).clamp_min(1),
        swap=(values["likeness"].amax(-1) - values["likeness"].gather(3, best)[..., 0]) * seen[..., 0],
        grey=mattes.ground_grey.view(batch, frames),
        tint=mattes.tint.view(batch, frames),
        unexplained=mattes.unexplained.view(batch, frames).mean(1),
        pan_x=pan_x,
        pan_y=pan_y,
        zoom=zoom,
        times=frame_times(frames, fps, rgb.device),
    )
