"""Variances and intervals of estimates from judgements that are clustered twice: by prompt and by annotator.

Two judgements of one prompt are alike, and so are two of one annotator. An interval over judgements, or over prompts
alone, is too narrow where annotators differ in taste. Every estimate here is a sum of influence values, one a
judgement, whose squares are summed by prompt and by annotator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward.statistics import CONFIDENCE, LEAST_CLUSTERS, Interval

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]


LEAST_SHARE = 0.5
"""Least width of an interval, as a share of that by prompts alone: few annotators may be alike by chance."""


@dataclass(frozen=True)
class Variance:
    """Variance of an estimate, clustered by prompt and annotator.

    Attributes:
        total: variance.
        prompts: its part that falls as prompts are added, by the same or by other annotators.
        annotators: its part that falls only as annotators are added.
        parts: variances with their degrees of freedom, for `student_margin`; that of the prompts is the first.
    """

    total: float
    prompts: float
    annotators: float
    parts: tuple[tuple[float, float], ...]


def cluster_numbers(names: ArrayLike | list[str]) -> Numbers:
    """Number from 0 of the cluster of each of `names [n]`."""
    return np.unique(np.asarray(names), return_inverse=True)[1].reshape(-1).astype(np.int64)


def two_way_variance(influence: ArrayLike, prompts: ArrayLike, annotators: ArrayLike) -> Variance:
    """Variance of an estimate from its influence values, clustered by prompt and by annotator.

    V = V_prompt + max(0, V_annotator − V_both) (Cameron, Gelbach & Miller 2011, eq. 2.11), where V_c is the sum over
    the clusters c of the squared sums of influence values, times C / (C − 1). The part of the annotators is cut off at
    0, so the variance is never below that of prompts alone. The parts are max(0, V_prompt − V_both) and V_annotator,
    each with the degrees of its clusters less one; unequal clusters count as (Σn)² / Σn² equal ones.

    Args:
        influence: `[n]`, the derivative of the estimate by the weight of each judgement; of a mean (x − mean) / n.
        prompts, annotators: `[n]`, number of the cluster of each.

    Returns:
        the variance; with one annotator that of prompts alone.
    """
    influence = np.asarray(influence, dtype=np.float64)
    by_prompt, by_annotator = cluster_numbers(prompts), cluster_numbers(annotators)
    both = cluster_numbers(by_prompt * (by_annotator.max() + 1) + by_annotator)
    of_prompts, equal_prompts = _cluster_variance(influence, by_prompt)
    of_annotators, equal_annotators = _cluster_variance(influence, by_annotator)
    shared, _ = _cluster_variance(influence, both)
    degrees = max(1.0, equal_prompts - 1)
    if equal_annotators <= 1:
        return Variance(of_prompts, of_prompts, 0.0, ((of_prompts, degrees),))
    excess = max(0.0, of_annotators - shared)
    parts = (max(0.0, of_prompts - shared), degrees), (of_annotators, max(1.0, equal_annotators - 1))
    return Variance(of_prompts + excess, of_prompts, excess, parts)


def _cluster_variance(influence: Floats, clusters: Numbers) -> tuple[float, float]:
    """Sum of squared sums of the clusters, corrected for their number, and the number of equal ones."""
    sums, sizes = np.bincount(clusters, weights=influence), np.bincount(clusters)
    count = len(sums)
    correction = count / (count - 1) if count > 1 else 1.0
    return float(correction * (sums**2).sum()), float(sizes.sum() ** 2 / (sizes**2).sum())


def student_tail(value: float, degrees: float) -> float:
    """Probability that Student's t is above a value from 0 on: ½·I_x(ν/2, ½) with x = ν / (ν + t²)."""
    square = value * value
    return 0.5 * _incomplete_beta(degrees / (degrees + square), square / (degrees + square), degrees / 2, 0.5)


def _incomplete_beta(x: float, y: float, a: float, b: float, steps: int = 1000) -> float:
    """The regularised incomplete beta function I_x(a, b) for y = 1 − x, by its continued fraction (DLMF 8.17.22), in
    Lentz's order."""
    if x <= 0 or y <= 0:
        return float(y <= 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(y, x, b, a, steps)
    front = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log(y)
    below = 1 / (1 - (a + b) * x / (a + 1))
    above, found = 1.0, below
    for m in range(1, steps):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            below, above = 1 / (1 + term * below), 1 + term / above
            found *= below * above
        if abs(below * above - 1) < 1e-15:
            break
    return math.exp(front) * found / a


@lru_cache(maxsize=4096)
def student_quantile(probability: float, degrees: float) -> float:
    """Quantile of Student's t, by Newton's method from that of the normal distribution, which is nearer to 0: the
    distribution function is concave from 0 on, so no step goes too far."""
    if degrees > 1e6:
        return NormalDist().inv_cdf(probability)
    tail = min(probability, 1 - probability)
    value = -NormalDist().inv_cdf(tail)
    beta = math.lgamma(0.5) + math.lgamma(degrees / 2) - math.lgamma((degrees + 1) / 2)
    for _ in range(200):
        log_density = -(degrees + 1) / 2 * math.log1p(value * value / degrees) - beta
        step = (student_tail(value, degrees) - tail) * math.sqrt(degrees) / math.exp(log_density)
        value += step
        if abs(step) <= 1e-12 * (1 + value):
            break
    return math.copysign(value, probability - 0.5)


def student_margin(variance: Variance, confidence: float = CONFIDENCE) -> float:
    """Half the width of the interval of an estimate whose variance has independent parts: √(Σ t²·V) over the parts.

    t is Student's quantile for the degrees of each part (Banerjee 1960). However independent parts relate to each
    other, the interval holds the truth at least as often as it says; with degrees after Satterthwaite it does so too
    rarely where two or three annotators differ. It is at least `LEAST_SHARE` of t·√V_prompt.
    """
    tail = (1 + confidence) / 2
    squares = [student_quantile(tail, degrees) ** 2 * value for value, degrees in variance.parts]
    alone = student_quantile(tail, variance.parts[0][1]) ** 2 * variance.prompts
    return math.sqrt(max(sum(squares), LEAST_SHARE**2 * alone))


def _quantile(variance: Variance, confidence: float) -> float:
    """The margin in standard errors; where the variance is 0, that of Student's t for the prompts."""
    if variance.total > 0:
        return student_margin(variance, confidence) / math.sqrt(variance.total)
    return student_quantile((1 + confidence) / 2, variance.parts[0][1])


def share_interval(
    share: float, variance: Variance, n: int, prompts: int, confidence: float = CONFIDENCE
) -> Interval:
    """Interval of a share such as a win rate: Wilson's (1927) with an effective number of judgements.

    The effective number is share·(1 − share) / V (Kott & Carr 1997), the quantile that of `student_margin` in standard
    errors. Where all judgements are alike, so that V is 0, it is the number of prompts. The interval stays within
    [0, 1].

    Returns:
        the share with its interval, which is NaN below `LEAST_CLUSTERS` prompts.
    """
    if prompts < LEAST_CLUSTERS:
        return Interval(share, math.nan, math.nan, n, prompts)
    t = _quantile(variance, confidence)
    spread, effective = share * (1 - share), effective_number(share, variance, prompts)
    middle = (share + t * t / (2 * effective)) / (1 + t * t / effective)
    half = t * math.sqrt(spread / effective + t * t / (4 * effective**2)) / (1 + t * t / effective)
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half), n, prompts)


def share_p_value(share: float, variance: Variance, prompts: int) -> float:
    """Two-sided p-value of a share of ½; below 0.05 exactly where `share_interval` leaves ½ out.

    NaN below `LEAST_CLUSTERS` prompts.
    """
    if prompts < LEAST_CLUSTERS:
        return math.nan
    t = 2 * abs(share - 0.5) * math.sqrt(effective_number(share, variance, prompts))
    low, high = 0.0, 1.0  # the confidence of the interval that ends at ½
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _quantile(variance, middle) < t else (low, middle)
    return 1 - low


def effective_number(share: float, variance: Variance, prompts: int) -> float:
    """Number of independent judgements that would tell a share as exactly; that of prompts where all are alike."""
    spread = share * (1 - share)
    return spread / variance.total if variance.total > 0 and spread > 0 else float(prompts)


def mean_interval(
    mean: float, variance: Variance, n: int, prompts: int, confidence: float = CONFIDENCE
) -> Interval:
    """Interval of an unbounded estimate: mean ± `student_margin`; NaN below `LEAST_CLUSTERS` prompts."""
    if prompts < LEAST_CLUSTERS:
        return Interval(mean, math.nan, math.nan, n, prompts)
    half = student_margin(variance, confidence)
    return Interval(mean, mean - half, mean + half, n, prompts)
