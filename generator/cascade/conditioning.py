"""Noise conditioning augmentation of a stage's input, and the residual that a stage predicts, as pure functions.

A stage makes latents x₀ from those of its upsampled input c. It sees c noised to a level s, which it is told (noise
conditioning augmentation, arXiv 2210.02303). The network makes a v-prediction (arXiv 2202.00512) of the
normalised residual: with c' the linear estimate of x₀ from the noised input and r the standard deviation of what that
misses, u = (x₀ − c') / r has about unit variance, and x_σ − (1 − σ) c' = (1 − σ) r u + σ ε is a noised u. A network
whose output is 0 thus samples the upsampled input with noise of the right strength.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from generator.flow import expand, interpolate


def augment(condition: Tensor, noise: Tensor, level: Tensor) -> Tensor:
    """The input `[batch, ...]` noised to levels `[batch]` in [0, 1]: (1 − s) c + s ε', as rectified flow noises x₀."""
    return interpolate(condition, noise, level)


def signal_to_noise(level: float) -> float:
    """Signal-to-noise ratio ((1 − s) / s)² of an augmentation level s above 0 for input of unit variance."""
    return ((1 - level) / level) ** 2


class Residual(NamedTuple):
    """Linear estimate of x₀ from a noised input, and the spread of what it misses.

    Attributes:
        centre: c', the estimate, shaped like the latents.
        std: r, `[batch, channels, 1, 1, 1]`.
        spread: √(σ² + (1 − σ)² r²), the standard deviation of x_σ − (1 − σ) c', shaped like `std`.
    """

    centre: Tensor
    std: Tensor
    spread: Tensor


def residual(condition: Tensor, sigma: Tensor, level: Tensor, gain: Tensor, std: Tensor) -> Residual:
    """Estimate and spread for latents at noise levels `sigma` from an input noised to `level`.

    The best linear estimate of c of unit variance from (1 − s) c + s ε' is that times (1 − s) / ((1 − s)² + s²), and
    misses s² / ((1 − s)² + s²) of its variance.

    Args:
        condition: noised input `[batch, channels, frames, height, width]`, float32.
        sigma, level: `[batch]` in [0, 1].
        gain, std: `[channels]` of x₀ = gain · c + std · u on training clips, with c that was not noised.
    """
    sigma, level = expand(sigma, condition), expand(level, condition)
    gain, std = (value.to(condition).reshape(1, -1, 1, 1, 1) for value in (gain, std))
    power = (1 - level).square() + level.square()
    centre = gain * (1 - level) / power * condition
    variance = std.square() + gain.square() * level.square() / power
    spread = (sigma.square() + (1 - sigma).square() * variance).sqrt()
    return Residual(centre, variance.sqrt(), spread)


def network_input(latents: Tensor, sigma: Tensor, known: Residual) -> Tensor:
    """The noised residual at unit variance: (x_σ − (1 − σ) c') / spread."""
    return (latents - (1 - expand(sigma, latents)) * known.centre) / known.spread


def network_target(x0: Tensor, noise: Tensor, sigma: Tensor, known: Residual) -> Tensor:
    """Target of the network: ((1 − σ) r ε − σ u) / spread, of about unit variance at every noise level."""
    sigma = expand(sigma, x0)
    unit = (x0 - known.centre) / known.std
    return ((1 - sigma) * known.std * noise - sigma * unit) / known.spread


def velocity(noised: Tensor, output: Tensor, sigma: Tensor, known: Residual) -> Tensor:
    """Velocity ε − x₀ of rectified flow: −c' + (σ − (1 − σ) r²) / spread · noised + r / spread · output.

    Args:
        noised: from `network_input`.
        output: the network's estimate of `network_target`.
    """
    sigma = expand(sigma, noised)
    slope = (sigma - (1 - sigma) * known.std.square()) / known.spread
    return slope * noised + known.std / known.spread * output - known.centre


class ResidualStatistics:
    """Running sums from which gain and standard deviation of `residual` follow, a channel each."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.sums = torch.zeros(3, channels, dtype=torch.float64)

    def add(self, x0: Tensor, condition: Tensor) -> None:
        """Adds pairs of latents `[batch, channels, frames, height, width]`."""
        x0, condition = (value.double().transpose(0, 1).flatten(1).cpu() for value in (x0, condition))
        self.count += x0.shape[1]
        self.sums += torch.stack([(x0 * condition).sum(1), condition.square().sum(1), x0.square().sum(1)])

    def result(self) -> tuple[list[float], list[float]]:
        """Least-squares gain of x₀ = gain · c, and the standard deviation of what it leaves, of each channel."""
        product, power, whole = self.sums / max(self.count, 1)
        gain = product / power.clamp_min(1e-12)
        std = (whole - gain * product).clamp_min(1e-6).sqrt()
        return [round(v, 5) for v in gain.tolist()], [round(v, 5) for v in std.tolist()]
