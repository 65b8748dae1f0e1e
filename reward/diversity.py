"""Diversity: how far a model's videos differ from each other, measured on small pictures of them.

A model that is aligned can come to make one video for every seed, or one scene for every prompt. Adherence does not see
it; the mean distance between its videos does.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from reward.statistics import (
    LEAST_CLUSTERS,
    RESAMPLES,
    Interval,
    cluster_bootstrap,
    expanded_quantiles,
)

SIDE = 4
"""Pixels a side of a small picture."""
MOMENTS = 3
"""Frames of a small picture: the first, the middle and the last one."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Diversity:
    """Diversity of several models on the same prompts and seeds.

    Attributes:
        within_prompts: whether videos of one prompt were compared; else videos of different prompts.
        means: of each model.
        differences: `{reference: {model: model − reference}}`.
    """

    within_prompts: bool
    means: dict[str, Interval]
    differences: dict[str, dict[str, Interval]]


def look(video: Tensor) -> str:
    """A small picture of a video `[3, frames, height, width]` in [-1, 1]: 3 moments of 4 by 4 pixels, base64."""
    frames = video.shape[1]
    chosen = video[:, [0, frames // 2, frames - 1]].detach().float().cpu().transpose(0, 1)
    small = functional.interpolate(chosen, size=(SIDE, SIDE), mode="area")
    pixels = ((small.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return base64.b64encode(pixels.numpy().tobytes()).decode("ascii")


def distances(looks: Sequence[str]) -> Floats:
    """Distances `[n, n]` in [0, 1] between small pictures: root mean square difference of pixel values in [0, 1]."""
    pixels = np.stack([np.frombuffer(base64.b64decode(text), dtype=np.uint8) for text in looks]) / 255.0
    squares = (pixels**2).sum(1)
    products = squares[:, None] + squares[None] - 2 * pixels @ pixels.T
    found = np.sqrt(np.maximum(products, 0) / pixels.shape[1])
    np.fill_diagonal(found, 0.0)
    return found


def diversities(
    looks: Mapping[str, Sequence[str]], prompts: Sequence[str], references: Sequence[str] = (), seed: int = 0
) -> Diversity:
    """Mean distance between the videos of each model, with 95 % intervals from resampled prompts.

    Between the videos of one prompt where every prompt has several, else between those of different prompts.

    Args:
        looks: `{model: [n]}` small pictures, all models in the order of `prompts [n]`.
        references: models that the others are compared with.
    """
    within = min(Counter(prompts).values()) > 1
    names = list(dict.fromkeys(prompts))
    summed = {model: _sums(distances(rows), prompts, names) for model, rows in looks.items()}
    counts = _sums(1.0 - np.eye(len(prompts)), prompts, names)
    if within:
        values = {model: np.diag(sums) / np.diag(counts) for model, sums in summed.items()}

        def interval(weighed: Floats) -> Interval:
            return cluster_bootstrap(weighed, names, seed=seed)
    else:
        values = summed

        def interval(weighed: Floats) -> Interval:
            return _between(weighed, counts, len(prompts), seed)

    return Diversity(
        within,
        {model: interval(own) for model, own in values.items()},
        {
            reference: {m: interval(own - values[reference]) for m, own in values.items() if m != reference}
            for reference in references
        },
    )


def _sums(matrix: Floats, prompts: Sequence[str], names: Sequence[str]) -> Floats:
    """Sums of `matrix [n, n]` over the videos of each pair of prompts `[prompts, prompts]`."""
    index = {name: number for number, name in enumerate(names)}
    member = np.zeros((len(names), len(prompts)))
    member[[index[prompt] for prompt in prompts], np.arange(len(prompts))] = 1.0
    return member @ matrix @ member.T


def _between(sums: Floats, counts: Floats, videos: int, seed: int) -> Interval:
    """Mean over pairs of different prompts, with the interval of a bootstrap that draws prompts.

    A drawn prompt is never paired with itself, so that drawing one twice adds no distance of 0 (the bootstrap of a
    U-statistic, Arcones and Giné 1992).
    """
    size = len(sums)
    sums, counts = (matrix * (1 - np.eye(size)) for matrix in (sums, counts))
    mean = float(sums.sum() / counts.sum()) if counts.sum() else 0.0
    if size < LEAST_CLUSTERS:
        return Interval(mean, float("nan"), float("nan"), videos, size)
    weights = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=RESAMPLES)
    drawn = weights.astype(np.float64)
    totals = np.einsum("ri,ri->r", drawn @ counts, drawn)
    means = np.einsum("ri,ri->r", drawn @ sums, drawn)[totals > 0] / totals[totals > 0]
    low, high = expanded_quantiles(means, size)
    return Interval(mean, low, high, videos, size)
