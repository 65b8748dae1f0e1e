"""Motion of tracks: velocity, growth, turning, circles and hops, as numbers that claims are judged by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .perceive import Perception
from .shapes import SHAPES, SYMMETRY


@dataclass
class Motions:
    """One value a track, [batch, tracks]; lengths in shorter sides, times in seconds, relative to the world.

    Attributes:
        seen: share of the frames in which the track is present.
        x, y, radius: mean place on the screen and median radius.
        vx, vy, departure: straight-line fit of the path, and the root mean square distance from it.
        advance: share of the frame-to-frame steps that go the way of (vx, vy).
        growth, unsteadiness: rate of the logarithm of the radius, and the rms deviation from that.
        swelling: share of the steps in which the radius changes the way of `growth`.
        spin, spin_constancy: mean turning rate in radians per second, and |mean| / standard deviation of its steps.
        circle_radius, circle_rate, circle_error, circle_constancy: least-squares circle (Kåsa, 1976) through the path,
            rate around it, relative rms distance from it, share of steps in the main sense.
        rise, fall, sway: path length upwards and downwards, and range of x.
        colour_jitter: standard deviation of the core's chroma over time.
    """

    seen: Tensor
    x: Tensor
    y: Tensor
    radius: Tensor
    vx: Tensor
    vy: Tensor
    departure: Tensor
    advance: Tensor
    growth: Tensor
    unsteadiness: Tensor
    swelling: Tensor
    spin: Tensor
    spin_constancy: Tensor
    circle_radius: Tensor
    circle_rate: Tensor
    circle_error: Tensor
    circle_constancy: Tensor
    rise: Tensor
    fall: Tensor
    sway: Tensor
    colour_jitter: Tensor


def _line(values: Tensor, times: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted least-squares line through values [..., frames]: value at time 0, slope, residuals."""
    total = weight.sum(-1).clamp_min(1e-6)
    mean_time = (weight * times).sum(-1) / total
    mean = (weight * values).sum(-1) / total
    centred = times - mean_time[..., None]
    slope = (weight * centred * (values - mean[..., None])).sum(-1) / (weight * centred**2).sum(-1).clamp_min(
        1e-6
    )
    residual = values - mean[..., None] - slope[..., None] * centred
    return mean - slope * mean_time, slope, residual


def _rms(residual: Tensor, weight: Tensor) -> Tensor:
    return ((weight * residual**2).sum(-1) / weight.sum(-1).clamp_min(1e-6)).sqrt()


def _circle(x: Tensor, y: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Kåsa's circle through points [..., frames]: centre, radius, relative rms error."""
    total = weight.sum(-1, keepdim=True).clamp_min(1e-6)
    mean_x, mean_y = (weight * x).sum(-1, keepdim=True) / total, (weight * y).sum(-1, keepdim=True) / total
    u, v = x - mean_x, y - mean_y
    basis = torch.stack([2 * u, 2 * v, torch.ones_like(u)], -1) * weight[..., None]
    square = (u**2 + v**2)[..., None]
    ridge = 1e-5 * torch.eye(3, dtype=x.dtype, device=x.device)
    solution = torch.linalg.solve(basis.mT @ basis + ridge, basis.mT @ square)[..., 0]
    a, b, c = solution.unbind(-1)
    radius = (c + a**2 + b**2).clamp_min(1e-8).sqrt()
    away = torch.hypot(u - a[..., None], v - b[..., None]) - radius[..., None]
    return a + mean_x[..., 0], b + mean_y[..., 0], radius, _rms(away, weight) / radius


def measure_motion(seen: Perception) -> Motions:
    """Summarises every track; camera motion that is clearly there is taken out first."""
    weight = seen.present.float()
    pairs = weight[..., 1:] * weight[..., :-1]
    pair_count = pairs.sum(-1).clamp_min(1e-6)
    times = seen.times
    rate = 1 / float(times[1] - times[0]) if len(times) > 1 else 1.0

    def clear(value: Tensor, threshold: float) -> Tensor:
        return torch.where(value.abs() > threshold, value, torch.zeros_like(value))[:, None, None]

    magnification = (clear(seen.zoom, 0.08) * times).exp()
    x = seen.x / magnification + clear(seen.pan_x, 0.05) * times
    y = seen.y / magnification + clear(seen.pan_y, 0.05) * times
    log_radius = (seen.radius / magnification).clamp_min(1e-4).log()

    _, vx, off_x = _line(x, times, weight)
    _, vy, off_y = _line(y, times, weight)
    speed = torch.hypot(vx, vy).clamp_min(1e-6)
    step_x, step_y = (x[..., 1:] - x[..., :-1]) * pairs, (y[..., 1:] - y[..., :-1]) * pairs
    ahead = (step_x * vx[..., None] + step_y * vy[..., None]) / speed[..., None]
    _, growth, off_size = _line(log_radius, times, weight)
    swell = (log_radius[..., 1:] - log_radius[..., :-1]) * growth[..., None].sign()
    _, spin_step = _turning(seen)
    spin_mean = (spin_step * pairs).sum(-1) / pair_count
    spin_spread = _rms(spin_step - spin_mean[..., None], pairs)
    centre_x, centre_y, circle_radius, circle_error = _circle(x, y, weight)
    around = torch.atan2(y - centre_y[..., None], x - centre_x[..., None])
    arc = torch.remainder(around[..., 1:] - around[..., :-1] + math.pi, 2 * math.pi) - math.pi
    arc_mean = (arc * pairs).sum(-1) / pair_count
    infinite = torch.full_like(x, math.inf)
    there = seen.present
    sway = torch.where(there, x, -infinite).amax(-1) - torch.where(there, x, infinite).amin(-1)
    chroma_mean = (seen.chroma * weight[..., None]).sum(2) / weight.sum(-1).clamp_min(1e-6)[..., None]
    jitter = _rms((seen.chroma - chroma_mean[:, :, None]).norm(dim=-1), weight)
    seconds = weight.sum(-1).clamp_min(1e-6)
    return Motions(
        seen=weight.mean(-1),
        x=(seen.x * weight).sum(-1) / seconds,
        y=(seen.y * weight).sum(-1) / seconds,
        radius=((seen.radius.clamp_min(1e-4).log() * weight).sum(-1) / seconds).exp(),
        vx=vx,
        vy=vy,
        departure=(_rms(off_x, weight) ** 2 + _rms(off_y, weight) ** 2).sqrt(),
        advance=((ahead > 0).float() * pairs).sum(-1) / pair_count,
        growth=growth,
        unsteadiness=_rms(off_size, weight),
        swelling=((swell > 0).float() * pairs).sum(-1) / pair_count,
        spin=spin_mean * rate,
        spin_constancy=spin_mean.abs() / spin_spread.clamp_min(0.02),
        circle_radius=circle_radius,
        circle_rate=arc_mean * rate,
        circle_error=circle_error,
        circle_constancy=((arc * arc_mean[..., None].sign() > 0).float() * pairs).sum(-1) / pair_count,
        rise=(-step_y).clamp_min(0).sum(-1),
        fall=step_y.clamp_min(0).sum(-1),
        sway=torch.where(torch.isfinite(sway), sway, torch.zeros_like(sway)),
        colour_jitter=jitter,
    )


def _turning(seen: Perception) -> tuple[Tensor, Tensor]:
    """Period of each track's orientation [batch, tracks] and its steps [batch, tracks, frames - 1] in radians."""
    periods = torch.tensor(
        [2 * math.pi / SYMMETRY.get(shape, 1) for shape in SHAPES], device=seen.angle.device
    )
    period = periods[seen.likeness.argmax(-1)]
    step = seen.angle[..., 1:] - seen.angle[..., :-1]
    half = period[..., None] / 2
    return period, torch.remainder(step + half, 2 * half) - half
