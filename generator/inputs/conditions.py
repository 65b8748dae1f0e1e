"""Conditions: what a transformer sees beside latents and noise levels, and how their rows are taken and joined."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Conditions = dict[str, Tensor]
"""Inputs of the transformer beside latents and sigma. Every tensor has the batch as its first dimension."""

KNOWN_LATENTS = "known_latents"
"""Name among conditions of latents `[batch, C, known frames, H, W]` that precede those which are sampled."""

IMAGE_CONDITIONS = (KNOWN_LATENTS, "image_latents", "image_embeds")
"""Names of all conditions that come from images."""


def split_images(conditions: Conditions) -> tuple[Conditions, Conditions]:
    """Conditions of prompts, and those of images."""
    seen = {name: value for name, value in conditions.items() if name in IMAGE_CONDITIONS}
    return {name: value for name, value in conditions.items() if name not in seen}, seen


def select(conditions: Conditions, index: Tensor | Sequence[int] | slice) -> Conditions:
    """The rows `index` of every tensor in `conditions`."""
    if not isinstance(index, slice):
        index = torch.as_tensor(index)
    return {
        name: value[index if isinstance(index, slice) else index.to(value.device)]
        for name, value in conditions.items()
    }


def repeat(conditions: Conditions, times: int) -> Conditions:
    """Each row `times` times in a row: prompts a, b become a, a, b, b for `times=2`."""
    return {name: value.repeat_interleave(times, dim=0) for name, value in conditions.items()}


def concatenate(parts: Sequence[Conditions]) -> Conditions:
    """Joins conditions along the batch; dimension 1 is zero-padded to the longest where lengths differ."""
    joined: Conditions = {}
    for name in parts[0]:
        tensors = [part[name] for part in parts]
        if tensors[0].ndim > 1:
            longest = max(tensor.shape[1] for tensor in tensors)
            tensors = [
                torch.cat([t, t.new_zeros(t.shape[0], longest - t.shape[1], *t.shape[2:])], dim=1)
                if t.shape[1] < longest
                else t
                for t in tensors
            ]
        joined[name] = torch.cat(tensors)
    return joined
