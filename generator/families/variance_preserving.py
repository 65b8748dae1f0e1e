"""Variance-preserving processes as rectified flow: z_t = α x₀ + s ε with α² + s² = 1, divided by α + s."""

from __future__ import annotations

import torch
from torch import Tensor


def sigma_of(alphas_cumprod: Tensor) -> Tensor:
    """Noise level σ = s / (α + s) of each integer timestep, float32, rising.

    Args:
        alphas_cumprod: α² of each timestep, as diffusers' schedulers have it.
    """
    products = alphas_cumprod.double().cpu()
    signal, noise = products.sqrt(), (1 - products).clamp(min=0).sqrt()
    return (noise / (signal + noise)).float()


def nearest_timestep(timestep_sigmas: Tensor, sigma: Tensor) -> Tensor:
    """The integer timestep `[batch]` whose noise level is nearest to `sigma` `[batch]`.

    Args:
        timestep_sigmas: from `sigma_of`.
    """
    table = timestep_sigmas.to(sigma.device)
    above = torch.searchsorted(table, sigma.float().contiguous()).clamp(1, len(table) - 1)
    nearer_below = sigma - table[above - 1] < table[above] - sigma
    return torch.where(nearer_below, above - 1, above)
