"""Scales of classifier-free guidance: one for all noise levels, or one for each of two transformers."""

from __future__ import annotations

import torch
from torch import Tensor

from generator.output import InputError
from generator.video_model import VideoModel


def guidance_scales(
    generator: VideoModel, guidance_scale: float | None = None, guidance_scale_2: float | None = None
) -> tuple[float, float]:
    """Scales at noise levels from the generator's `boundary` on, and below it; the model's own for None.

    Where the first alone is given, it is that of both, as in diffusers.

    Raises:
        InputError: the second is given for a model with one transformer.
    """
    defaults = generator.defaults
    if generator.boundary is None and guidance_scale_2 is not None:
        raise InputError(
            f"guidance_scale_2 is {guidance_scale_2:g}, but {generator.name} has one transformer for all noise levels: "
            "leave it out."
        )
    scale = defaults.guidance_scale if guidance_scale is None else guidance_scale
    if guidance_scale_2 is None and guidance_scale is None:
        guidance_scale_2 = defaults.guidance_scale_2
    return scale, scale if guidance_scale_2 is None else guidance_scale_2


def scale_at(generator: VideoModel, sigma: Tensor, scale: float, scale_2: float | None) -> float | Tensor:
    """The scale at noise levels `sigma` `[batch]`: a number, or one a row as `[batch, 1, 1, 1, 1]`."""
    if generator.boundary is None or scale_2 is None or scale_2 == scale:
        return scale
    # Compared as the transformers are chosen, in the scale of timesteps.
    noisy = sigma.float() * 1000 >= generator.boundary * 1000
    scales = torch.where(
        noisy, torch.tensor(scale, device=sigma.device), torch.tensor(scale_2, device=sigma.device)
    )
    return scales.view(-1, 1, 1, 1, 1)


def guidance_text(scale: float, scale_2: float | None) -> str:
    """Both scales, or the one of both, for tables and messages."""
    return f"{scale:g}" if scale_2 is None or scale_2 == scale else f"{scale:g} and {scale_2:g}"
