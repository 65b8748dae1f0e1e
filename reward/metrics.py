"""Agreement of scores with preferences: pair accuracy without and with ties, and calibration.

Pairs are `difference [n]` (score of the first video minus score of the second) and `label [n]` (1: the first
is preferred, -1: the second, 0: a tie), with `cluster [n]` naming the prompt of each pair, since pairs of
one prompt are not independent.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from generator.one_or_several import as_list
from reward.statistics import Interval, cluster_bootstrap

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pairs:
    """Scored and labelled pairs.

    Attributes:
        difference: `[n]` score of the first minus score of the second video.
        label: `[n]` 1 where the first is preferred, -1 where the second is, 0 for a tie.
        cluster: `[n]` the prompt (or its number) of each pair.
    """

    difference: Floats
    label: NDArray[np.int64]
    cluster: NDArray[np.generic]

    def __len__(self) -> int:
        return len(self.label)


def pairs_of_rankings(
    scores: Sequence[ArrayLike], ranks: Sequence[ArrayLike], prompts: Sequence[str]
) -> Pairs:
    """All judged pairs i < j of several rankings; `scores[n]` and `ranks[n]` have one entry a video."""
    prompts = as_list(prompts)
    difference: list[float] = []
    label: list[int] = []
    cluster: list[str] = []
    for score, rank, prompt in zip(scores, ranks, prompts):
        score, rank = np.asarray(score, dtype=np.float64), np.asarray(rank)
        i, j = np.triu_indices(len(rank), k=1)
        judged = (rank[i] >= 0) & (rank[j] >= 0)
        i, j = i[judged], j[judged]
        difference.extend((score[i] - score[j]).tolist())
        label.extend(np.sign(rank[j] - rank[i]).astype(int).tolist())
        cluster.extend([prompt] * len(i))
    return Pairs(np.array(difference, dtype=np.float64), np.array(label, dtype=np.int64), np.array(cluster))


def correct_without_ties(difference: ArrayLike, label: ArrayLike) -> Floats:
    """1 where the sign of the difference is the label, ½ where the scores are equal, NaN for tied labels."""
    difference, label = np.asarray(difference, dtype=np.float64), np.asarray(label)
    correct = np.where(difference == 0, 0.5, np.sign(difference) == label)
    return np.where(label == 0, np.nan, correct).astype(np.float64)


def accuracy_without_ties(difference: ArrayLike, label: ArrayLike) -> float:
    """Share of the untied pairs in which the preferred video has the higher score; NaN without such pairs."""
    correct = correct_without_ties(difference, label)
    return float(np.nanmean(correct)) if np.isfinite(correct).any() else float("nan")


def correct_with_ties(difference: ArrayLike, label: ArrayLike, threshold: float) -> NDArray[np.bool_]:
    """Returns whether the prediction (tie where |d| ≤ threshold, else the sign of d) is the label."""
    difference, label = np.asarray(difference, dtype=np.float64), np.asarray(label)
    return np.where(np.abs(difference) <= threshold, 0, np.sign(difference)) == label


def tie_threshold(difference: ArrayLike, label: ArrayLike) -> float:
    """The threshold on |d| with the best accuracy with ties (Deutsch et al., arXiv 2305.14324).

    A threshold is evaluated only after a whole group of equal |d|: between equal values no threshold exists.
    Choose it on a calibration split, never on the split that is reported. -1 means that no tie is predicted
    (though a difference of exactly 0 always is one); of equally good thresholds the smallest is taken.
    """
    difference, label = np.asarray(difference, dtype=np.float64), np.asarray(label)
    magnitude = np.abs(difference)
    order = np.argsort(magnitude, kind="stable")
    magnitude, label, difference = magnitude[order], label[order], difference[order]
    won = np.sign(difference) == label
    gained = np.cumsum((label == 0).astype(np.int64) - won.astype(np.int64))
    last_of_group = np.append(magnitude[1:] != magnitude[:-1], True)[: len(magnitude)]
    thresholds = np.concatenate([[-1.0], magnitude[last_of_group]])
    totals = np.concatenate([[0], gained[last_of_group]])
    return float(thresholds[int(np.argmax(totals))])


def accuracy_with_ties(difference: ArrayLike, label: ArrayLike, threshold: float) -> float:
    """Share of all pairs whose label win, loss or tie is predicted; see `tie_threshold`."""
    return float(np.mean(correct_with_ties(difference, label, threshold)))


def tie_rate(label: ArrayLike) -> float:
    """Share of the pairs whose label is a tie."""
    return float(np.mean(np.asarray(label) == 0))


def majority_baseline(label: ArrayLike) -> float:
    """Accuracy with ties of always giving the commonest label."""
    label = np.asarray(label)
    return float(max(np.mean(label == value) for value in (-1, 0, 1)))


def position_baseline(label: ArrayLike) -> float:
    """Accuracy without ties of always preferring the video that stands first; far from ½, the order tells."""
    label = np.asarray(label)
    return float(np.mean(label[label != 0] == 1)) if (label != 0).any() else float("nan")


@dataclass(frozen=True)
class ReliabilityCurve:
    """Predicted against observed shares, bin by bin; bins without pairs are left out.

    Attributes:
        confidence: mean predicted probability of each bin.
        accuracy: observed share of each bin.
        count: pairs in each bin.
    """

    confidence: list[float]
    accuracy: list[float]
    count: list[int]


def reliability_curve(probability: ArrayLike, outcome: ArrayLike, bins: int = 10) -> ReliabilityCurve:
    """The curve whose mean distance from the diagonal is the expected calibration error.

    Args:
        probability: `[n]` in [0, 1], predicted probability that the outcome is 1.
        outcome: `[n]` of 0 and 1.
    """
    probability, outcome = np.asarray(probability, dtype=np.float64), np.asarray(outcome, dtype=np.float64)
    index = np.minimum((probability * bins).astype(int), bins - 1)
    count = np.bincount(index, minlength=bins)
    kept = count > 0
    mean = [
        np.bincount(index, weights=values, minlength=bins)[kept] / count[kept]
        for values in (probability, outcome)
    ]
    return ReliabilityCurve(mean[0].tolist(), mean[1].tolist(), count[kept].tolist())


def expected_calibration_error(probability: ArrayLike, outcome: ArrayLike, bins: int = 10) -> float:
    """Mean distance of confidence and accuracy over equally wide bins, weighted by their sizes (Guo et al.
    2017).

    Args:
        probability: `[n]` in [0, 1], predicted probability that the outcome is 1.
        outcome: `[n]` of 0 and 1.
    """
    curve = reliability_curve(probability, outcome, bins)
    gap = np.abs(np.array(curve.confidence) - np.array(curve.accuracy))
    return float((gap * curve.count).sum() / max(sum(curve.count), 1))


def calibration_error_by_chance(
    probability: ArrayLike, bins: int = 10, draws: int = 200, seed: int = 0
) -> float:
    """Mean calibration error that `n` outcomes drawn with exactly these probabilities `[n]` show.

    The binned error is never negative, so a perfectly calibrated model has a positive one on few pairs; an error about
    as large as this is no sign of wrong calibration.
    """
    values = np.asarray(probability, dtype=np.float64)
    if len(values) == 0:
        return float("nan")
    outcomes = np.random.default_rng(seed).random((draws, len(values))) < values
    return float(np.mean([expected_calibration_error(values, row, bins) for row in outcomes]))


def confidences(pairs: Pairs, temperature: float = 1.0) -> tuple[Floats, Floats]:
    """The probability sigmoid(|d| / temperature) of the likelier side of each untied pair, and whether it won."""
    untied = pairs.label != 0
    difference = pairs.difference[untied] / temperature
    return 1 / (1 + np.exp(-np.abs(difference))), correct_without_ties(difference, pairs.label[untied])


def pair_calibration_error(pairs: Pairs, temperature: float = 1.0, bins: int = 10) -> float:
    """Calibration error of sigmoid(d / temperature) on the untied pairs, each seen from its likelier side."""
    if not (pairs.label != 0).any():
        return float("nan")
    return expected_calibration_error(*confidences(pairs, temperature), bins)


def fit_temperature(pairs: Pairs) -> float:
    """The most likely temperature T > 0 of sigmoid(d / T) on the untied pairs (golden section).

    log T has a standard normal prior, which a hundred pairs outweigh: without it a handful of pairs that are all
    ordered right would make the model certain of everything. 1.0 where there are no untied pairs.
    """
    untied = pairs.label != 0
    signed = (pairs.difference * pairs.label)[untied]
    if len(signed) == 0:
        return 1.0

    def negative_log_likelihood(log_temperature: float) -> float:
        likelihood = np.logaddexp(0, -signed / np.exp(log_temperature)).mean()
        return float(likelihood + log_temperature**2 / (2 * len(signed)))

    low, high = -4.0, 4.0
    ratio = (np.sqrt(5) - 1) / 2
    while high - low > 1e-4:
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        if negative_log_likelihood(left) < negative_log_likelihood(right):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def bootstrap_pairs(
    pairs: Pairs, correct: Callable[[Floats, NDArray[np.int64]], ArrayLike], seed: int = 0
) -> Interval:
    """Mean of `correct(difference, label)` with its 95 % interval from resampled prompts; NaN entries are
    left out."""
    values = np.asarray(correct(pairs.difference, pairs.label), dtype=np.float64)
    kept = np.isfinite(values)
    if not kept.any():
        return Interval(float("nan"), float("nan"), float("nan"), 0, 0)
    return cluster_bootstrap(values[kept], pairs.cluster[kept], seed=seed)


def evaluate_pairs(
    pairs: Pairs,
    calibration: Pairs | None,
    seed: int = 0,
    tie_threshold_of_model: float = -1.0,
    temperature_of_model: float = 1.0,
) -> dict[str, object]:
    """All figures of a held-out split.

    Args:
        calibration: the split that tie threshold and temperature are chosen on; None takes those of the model.
    """
    threshold, temperature = tie_threshold_of_model, temperature_of_model
    if calibration is not None:
        threshold = tie_threshold(calibration.difference, calibration.label) if len(calibration) else -1.0
        temperature = fit_temperature(calibration)
    curve = reliability_curve(*confidences(pairs, temperature))
    return {
        "accuracy": bootstrap_pairs(pairs, correct_without_ties, seed).as_dict(),
        "accuracy_with_ties": bootstrap_pairs(
            pairs, lambda difference, label: correct_with_ties(difference, label, threshold), seed
        ).as_dict(),
        "tie_threshold": threshold,
        "tie_rate": tie_rate(pairs.label),
        "chance": 0.5,
        "majority_baseline": majority_baseline(pairs.label),
        "position_baseline": position_baseline(pairs.label),
        "calibration_error": pair_calibration_error(pairs),
        "temperature": temperature,
        "calibration_error_after_temperature": pair_calibration_error(pairs, temperature),
        "calibration_error_by_chance": calibration_error_by_chance(confidences(pairs, temperature)[0]),
        "reliability": asdict(curve),
        "pairs": len(pairs),
        "untied_pairs": int((pairs.label != 0).sum()),
        "prompts": len(np.unique(pairs.cluster)),
        "calibration_pairs": len(calibration) if calibration is not None else 0,
    }
