"""Active selection from one reward model: what the labels of pairs would tell about its last layer.

A reward model's score is linear in what its last layer reads, so the label of a pair is a logistic regression on the
difference of the two videos' inputs. The posterior of its weights (Laplace's approximation, with the labels that are
there or on their way) says how uncertain each difference of scores is, and how much less uncertain it would be after
the label of another pair. Pairs are taken one after the other, each for what it tells beyond those before it: a batch
without repetitions (BatchBALD, arXiv 1906.08158; on last layers of reward models: arXiv 2502.04354). A sum of
separate values, as of an ensemble's disagreement, would pick many pairs that tell the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from generator.one_or_several import as_list
from labeling_app.selection.disagreement import SelectedPair, Selection, binary_entropy, check_request

if TYPE_CHECKING:
    from reward.models.latent import LatentRewardModel

Array = NDArray[np.float64]
Pair = tuple[int, int, int]
"""Prompt, first and second candidate."""

_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(12)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def label_information(mean: Array, variance: Array) -> Array:
    """Mutual information in bits of a label with P(first wins) = σ(f) and f ~ N(mean, variance), for each pair:
    H(E σ(f)) − E H(σ(f)) by Gauss–Hermite quadrature (BALD, arXiv 1112.5745)."""
    logits = mean[..., None] + np.sqrt(variance)[..., None] * _NODES
    probability = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    return np.maximum(binary_entropy(probability @ _WEIGHTS) - binary_entropy(probability) @ _WEIGHTS, 0.0)


class LastLayerPosterior:
    """Gaussian posterior of a last layer's weights, and of the differences of scores of some pairs.

    Args:
        mean: `[pairs]` logit of the first's victory, as the reward model has it.
        inputs: `[pairs, width]` differences of what the last layer reads.
        labelled: `[known, width]` and `[known]` the same of pairs that have labels.

    Before any label the weights have equal variances, so that a difference's variance is 1 on average: nothing is
    known of differences of a usual size.
    """

    def __init__(self, mean: Array, inputs: Array, labelled: tuple[Array, Array]) -> None:
        self.mean, self.inputs = mean, inputs
        width = inputs.shape[1]
        known, logits = labelled
        precision = np.eye(width) * max(float((inputs**2).sum(axis=1).mean()), 1e-12)
        precision += (known * _information(logits)[:, None]).T @ known
        self.covariance = np.linalg.inv(precision)
        self.variance = np.einsum("nd,de,ne->n", inputs, self.covariance, inputs).clip(min=0)

    def bits(self) -> Array:
        """`[pairs]` expected information of each label about the weights."""
        return label_information(self.mean, self.variance)

    def observe(self, pair: int) -> float:
        """Takes the label of a pair as given, whatever it will be; returns its bits before."""
        bits = float(label_information(self.mean[pair : pair + 1], self.variance[pair : pair + 1])[0])
        weight = float(_information(self.mean[pair : pair + 1])[0])
        direction = self.covariance @ self.inputs[pair]
        share = weight / (1 + weight * self.variance[pair])
        self.covariance -= share * np.outer(direction, direction)
        self.variance = (self.variance - share * (self.inputs @ direction) ** 2).clip(min=0)
        return bits


def _information(logits: Array) -> Array:
    """Fisher information of a label about its logit: p(1 − p)."""
    p = 1 / (1 + np.exp(-np.clip(logits, -500, 500)))
    return p * (1 - p)


def select_by_last_layer(
    scores: Sequence[Array],
    inputs: Sequence[Array],
    count: int,
    random_share: float = 0.2,
    temperature: float = 1.0,
    seed: int = 0,
    taken: frozenset[Pair] = frozenset(),
) -> Selection:
    """Picks pairs one after the other, each for what its label tells beyond those before it, and random ones.

    Args:
        scores: for each prompt `[candidates]`; P(i above j) = σ((s_i − s_j) / temperature).
        inputs: for each prompt `[candidates, width]` what the last layer reads of each.
        count: pairs to pick.
        random_share: share of pairs drawn uniformly from all.
        taken: pairs (prompt, first, second) with first < second that are labelled, or given out to be.

    Raises:
        InputError: the share is not from 0 to 1, or there are fewer than `count` pairs left.
    """
    everything: list[Pair] = [
        (prompt, i, j) for prompt, values in enumerate(scores) for i, j in combinations(range(len(values)), 2)
    ]
    pool = [pair for pair in everything if pair not in taken]
    num_random = check_request(len(pool), count, random_share)
    known = [pair for pair in everything if pair in taken]
    labelled = _differences(inputs, known), _differences(scores, known)[:, 0] / temperature
    mean, differences = _differences(scores, pool)[:, 0] / temperature, _differences(inputs, pool)
    drawn = np.random.default_rng(seed)
    posterior = LastLayerPosterior(mean, differences, labelled)
    at_random = drawn.choice(len(pool), size=num_random, replace=False).tolist()
    bits = {number: posterior.observe(number) for number in at_random}
    for _ in range(count - num_random):
        value = posterior.bits()
        value[list(bits)] = -1.0
        best = int(value.argmax())
        bits[best] = posterior.observe(best)
    usual = LastLayerPosterior(mean, differences, labelled)
    instead = drawn.choice(len(pool), size=count, replace=False).tolist()
    picked = [_selected(pool[number], bits[number], False) for number in list(bits)[num_random:]]
    picked += [_selected(pool[number], bits[number], True) for number in sorted(at_random)]
    return Selection(
        tuple(picked),
        expected_bits=sum(bits.values()),
        random_bits=sum(usual.observe(number) for number in instead),
    )


def read_last_layer(
    model: LatentRewardModel, videos: Sequence[Path], prompt: str, dimension: str
) -> tuple[Array, Array]:
    """Scores `[videos]` of a prompt's videos, and `[videos, width]` what the last layer of the dimension reads.

    Raises:
        InputError: a file is missing or is not a video.
    """
    videos = as_list(videos)
    import torch

    clips = torch.stack([model.read_video(path) for path in videos])
    scores, inputs = [], []
    with torch.no_grad():
        for latents, conditions in model.batches(clips, [prompt] * len(clips), 16):
            features = model.features(latents, conditions)
            scores.append(model.score_features(features)[dimension].cpu())
            inputs.append(model.last_layer(features, dimension).cpu())
    return torch.cat(scores).double().numpy(), torch.cat(inputs).double().numpy()


def _selected(pair: Pair, bits: float, random: bool) -> SelectedPair:
    prompt, first, second = pair
    return SelectedPair(prompt, first, second, bits, random)


def _differences(values: Sequence[Array], pairs: Iterable[Pair]) -> Array:
    """`[pairs, width]` values of the first candidate minus those of the second."""
    width = values[0].reshape(len(values[0]), -1).shape[1] if values else 1
    found = [np.atleast_1d(values[prompt][i] - values[prompt][j]) for prompt, i, j in pairs]
    return np.array(found, dtype=float).reshape(len(found), width)
