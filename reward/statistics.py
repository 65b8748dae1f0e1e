"""Intervals and comparisons for per-video scores whose samples come in clusters (the videos of one prompt).

Everything is resampled by cluster: the videos of one prompt are not independent, so an interval over videos
would be too narrow. All functions are vectorised over resamples: each resample is a vector of cluster
counts, drawn from a multinomial distribution, and a mean is the ratio of weighted sums and weighted counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
RESAMPLES = 4000
CONFIDENCE = 0.95
LEAST_CLUSTERS = 6
"""Clusters below which there is no interval and no test.

All of m cluster means lie on one side of the true median with the probability 2^(1 - m), and then no resampling
reaches across it: five clusters cannot give 95 %, six can.
"""
NO_INTERVAL = "too few prompts for an interval"


@dataclass(frozen=True)
class Interval:
    """A mean with its confidence interval.

    Attributes:
        mean: mean over all samples.
        low, high: ends of the interval; NaN (null in JSON) below `LEAST_CLUSTERS`.
        n: number of samples.
        clusters: number of clusters (prompts) that were resampled.
    """

    mean: float
    low: float
    high: float
    n: int
    clusters: int

    def as_dict(self) -> dict[str, Any]:
        """The fields by name; None for the ends of an interval that there is not."""
        return {**asdict(self), "low": _known(self.low), "high": _known(self.high)}

    def excludes_zero(self) -> bool:
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Difference:
    """A paired difference `a - b` with interval, two-sided p-value and win rate of a.

    Attributes:
        interval: mean difference with its interval.
        p_value: two-sided, from the resampled distribution of the mean difference (a shifted null, as in
            Efron & Tibshirani 1993, ch. 16), widened for few clusters as the interval is; NaN (null in JSON) below
            `LEAST_CLUSTERS`.
        win_rate: share of samples in which a is better, ties as ½, with its interval.
        tie_rate: share of samples with equal scores.
    """

    interval: Interval
    p_value: float
    win_rate: Interval
    tie_rate: float

    def as_dict(self) -> dict[str, object]:
        return {
            **self.interval.as_dict(),
            "p_value": _known(self.p_value),
            "win_rate": self.win_rate.as_dict(),
            "tie_rate": self.tie_rate,
        }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def interval_text(values: Mapping[str, Any], signed: bool = False) -> str:
    """The interval of `Interval.as_dict` in brackets, or the reason why there is none."""
    if values["low"] is None:
        return f"[{NO_INTERVAL}]"
    sign = "+" if signed else ""
    return f"[{values['low']:{sign}.3f}, {values['high']:{sign}.3f}]"


def verdict(difference: Mapping[str, Any]) -> str:
    """Verdict of a row of a family of tests, from its mean and `p_holm`: `better`, `worse`, `not distinguishable`, or
    `too few prompts`."""
    p = difference["p_holm"]
    if p is None:
        return "too few prompts"
    if p >= 1 - CONFIDENCE or difference["mean"] == 0:
        return "not distinguishable"
    return "better" if difference["mean"] > 0 else "worse"


def _cluster_sums(values: ArrayLike, clusters: ArrayLike | Sequence[str]) -> tuple[Floats, Floats]:
    """Sum and number of the values of each cluster."""
    values = np.asarray(values, dtype=np.float64)
    _, index = np.unique(np.asarray(clusters), return_inverse=True)
    sums = np.bincount(index, weights=values).astype(np.float64)
    return sums, np.bincount(index).astype(np.float64)


def resampled_means(
    values: ArrayLike, clusters: ArrayLike | Sequence[str], resamples: int = RESAMPLES, seed: int = 0
) -> Floats:
    """Means of `resamples` draws of clusters with replacement `[resamples]`."""
    sums, counts = _cluster_sums(values, clusters)
    size = len(sums)
    weights = np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=resamples)
    return (weights @ sums) / (weights @ counts)


def cluster_bootstrap(
    values: ArrayLike,
    clusters: ArrayLike | Sequence[str],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Mean of `values [n]` with the percentile interval over resampled `clusters [n]`.

    The percentiles are widened by √(m / (m − 1)) and Student's t with m − 1 degrees of freedom for m clusters
    (the "expanded percentile interval" of Hesterberg 2015): without it intervals of few clusters are too
    narrow. Below `LEAST_CLUSTERS` clusters the interval is NaN.

    Raises:
        ValueError: there are no values.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.size == 0:
        raise ValueError("No values to bootstrap.")
    count = len(np.unique(np.asarray(clusters)))
    if count < LEAST_CLUSTERS:
        return Interval(float(values.mean()), math.nan, math.nan, int(values.size), count)
    means = resampled_means(values, clusters, resamples, seed)
    low, high = expanded_quantiles(means, count, confidence)
    return Interval(float(values.mean()), low, high, int(values.size), count)


def expanded_quantiles(means: Floats, clusters: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Ends of the expanded percentile interval of resampled `means`, drawn from so many clusters."""
    tail = _expanded_tail((1 - confidence) / 2, clusters)
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def _expanded_tail(tail: float, clusters: int) -> float:
    """Φ(√(m/(m−1)) · t_{tail, m−1}): the percentile that makes a bootstrap interval as wide as Student's."""
    if clusters < 2:
        return tail
    normal = NormalDist()
    return normal.cdf(np.sqrt(clusters / (clusters - 1)) * _student_quantile(tail, clusters - 1))


def _widened_tail(tail: float, clusters: int) -> float:
    """The inverse of `_expanded_tail`: which tail in [0, ½] of Student's width is `tail` of the bootstrap's."""
    if clusters < 2 or tail >= 0.5:
        return tail
    low, high = 1e-9, 0.5
    for _ in range(50):
        middle = (low * high) ** 0.5
        if _expanded_tail(middle, clusters) < tail:
            low = middle
        else:
            high = middle
    return high


def _student_quantile(probability: float, degrees: int) -> float:
    """Quantile of Student's t: exact for 1 and 2 degrees, else Hill's (1970) expansion around the normal."""
    if degrees == 1:
        return float(np.tan(np.pi * (probability - 0.5)))
    if degrees == 2:
        return float((2 * probability - 1) * np.sqrt(2 / (4 * probability * (1 - probability))))
    z = NormalDist().inv_cdf(probability)
    g1 = (z**3 + z) / 4
    g2 = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    g3 = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    g4 = (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160
    return z + g1 / degrees + g2 / degrees**2 + g3 / degrees**3 + g4 / degrees**4


def paired_difference(
    a: ArrayLike,
    b: ArrayLike,
    clusters: ArrayLike | Sequence[str],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Compares two models whose scores `a [n]` and `b [n]` are of the same prompts and seeds, in the same
    order."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if a.shape != b.shape:
        raise ValueError(f"Paired scores must have one shape, but {a.shape} and {b.shape} were given.")
    difference = a - b
    interval = cluster_bootstrap(difference, clusters, confidence, resamples, seed)
    means = resampled_means(difference, clusters, resamples, seed)
    extreme = np.abs(means - interval.mean) >= abs(interval.mean) - 1e-12
    tail = float((extreme.sum() + 1) / (resamples + 1)) / 2
    enough = interval.clusters >= LEAST_CLUSTERS
    return Difference(
        interval=interval,
        p_value=2 * _widened_tail(tail, interval.clusters) if enough else math.nan,
        win_rate=win_rate(a, b, clusters, confidence, resamples, seed),
        tie_rate=float(np.mean(difference == 0)),
    )


def win_rate(
    a: ArrayLike,
    b: ArrayLike,
    clusters: ArrayLike | Sequence[str],
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Share of the pairs in which a's score is above b's, a tie counting ½."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    return cluster_bootstrap((np.sign(a - b) + 1) / 2, clusters, confidence, resamples, seed)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down adjusted p-values, which hold the family-wise error rate."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    scaled = p[order] * (len(p) - np.arange(len(p)))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return [float(value) for value in adjusted]


def prompts_needed(
    difference: float,
    deviation: float,
    power: float = 0.8,
    confidence: float = CONFIDENCE,
    measured_on: int | None = None,
) -> int:
    """Number of prompts that show a mean paired `difference` of per-prompt means with standard deviation `deviation`.

    Normal approximation: n = ((z_{1-α/2} + z_power) · deviation / difference)².

    Args:
        measured_on: number of prompts that the deviation was estimated from. A plan from the estimate itself has less
            than its power on average, so the one-sided 80 % upper limit of the deviation is planned with (Browne
            1995). None where the deviation is known.
    """
    if difference <= 0 or deviation < 0:
        raise ValueError("The difference must be above 0 and the deviation at least 0.")
    if measured_on is not None:
        deviation = upper_limit_of_deviation(deviation, measured_on)
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - (1 - confidence) / 2) + normal.inv_cdf(power)
    return max(2, int(np.ceil((quantiles * deviation / difference) ** 2)))


def upper_limit_of_deviation(deviation: float, count: int, confidence: float = 0.8) -> float:
    """One-sided upper confidence limit of a standard deviation estimated from `count` normal values.

    s · √((m − 1) / χ²_{1−confidence, m−1}), the quantile by Wilson and Hilferty (1931).
    """
    if count < 2:
        raise ValueError("A standard deviation needs at least two values.")
    degrees = count - 1
    spread = 2 / (9 * degrees)
    cube = 1 - spread + NormalDist().inv_cdf(1 - confidence) * spread**0.5
    return float(deviation * np.sqrt(1 / cube**3))


def deviation_of_differences(a: ArrayLike, b: ArrayLike, clusters: ArrayLike | Sequence[str]) -> float:
    """Standard deviation of the per-cluster means of the paired differences `a - b`; NaN below two clusters.

    It is what `prompts_needed` and `detectable_difference` ask for.
    """
    sums, counts = _cluster_sums(np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64), clusters)
    return float(np.std(sums / counts, ddof=1)) if len(sums) > 1 else float("nan")


def detectable_difference(
    prompts: int, deviation: float, power: float = 0.8, confidence: float = CONFIDENCE
) -> float:
    """The difference that so many prompts show with this power: the inverse of `prompts_needed`."""
    if prompts < 2 or deviation < 0:
        raise ValueError("At least two prompts and a deviation of at least 0 are needed.")
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - (1 - confidence) / 2) + normal.inv_cdf(power)
    return float(quantiles * deviation / np.sqrt(prompts))
