"""Comparisons of models by people: win rates, Davidson strengths, and the number of judgements that they take.

A judgement is of two videos of one prompt, by one annotator: 1 where the first model's video is better, ½ for a tie, 0
where the second's is. The intervals are those of `reward.human.two_way`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from reward.human.two_way import (
    Variance,
    cluster_numbers,
    mean_interval,
    share_interval,
    share_p_value,
    student_margin,
    student_quantile,
    two_way_variance,
)
from reward.statistics import CONFIDENCE, Interval

Floats = NDArray[np.float64]
Numbers = NDArray[np.int64]
ELO = 400 / math.log(10)
"""Elo points of one unit of log strength: 400 points are odds of 10 to 1."""


@dataclass(frozen=True)
class PairResult:
    """Win rate of one model against another.

    Attributes:
        win_rate: share of judgements in which it is better, a tie counting ½.
        tie_rate: share of ties.
        variance: of the win rate.
        p_value: two-sided, of a win rate of ½; NaN for too few prompts.
        prompts, annotators: numbers of clusters.
    """

    win_rate: Interval
    tie_rate: float
    variance: Variance
    p_value: float
    prompts: int
    annotators: int

    @property
    def width(self) -> float:
        """Width of the interval; NaN where there is none."""
        return self.win_rate.high - self.win_rate.low


def pair_result(outcomes: ArrayLike, prompts: ArrayLike, annotators: ArrayLike) -> PairResult:
    """Win rate of the first of two models with its interval, clustered by prompt and annotator.

    Args:
        outcomes: `[n]`, 1, ½ or 0.
        prompts, annotators: `[n]`, names or numbers.

    Raises:
        ValueError: there are no judgements.
    """
    outcomes = np.asarray(outcomes, dtype=np.float64)
    if outcomes.size == 0:
        raise ValueError("No judgements to compare models by.")
    rate = float(outcomes.mean())
    variance = two_way_variance((outcomes - rate) / outcomes.size, prompts, annotators)
    count = len(np.unique(np.asarray(prompts)))
    return PairResult(
        win_rate=share_interval(rate, variance, outcomes.size, count),
        tie_rate=float(np.mean(outcomes == 0.5)),
        variance=variance,
        p_value=share_p_value(rate, variance, count),
        prompts=count,
        annotators=len(np.unique(np.asarray(annotators))),
    )


@dataclass(frozen=True)
class Strengths:
    """Strengths of models in Davidson's model.

    Attributes:
        log_strengths: `[models]`, log π, mean 0.
        log_nu: log ν of the ties; −inf where nothing tied.
        intervals: of each log strength against the mean of all models.
        pairs: `{(i, j): interval}` of the differences of log strengths, i < j.
    """

    log_strengths: Floats
    log_nu: float
    intervals: list[Interval]
    pairs: dict[tuple[int, int], Interval]


def davidson_probabilities(difference: ArrayLike, log_nu: float) -> Floats:
    """Probabilities `[n, 3]` that the first wins, ties and loses, by the difference of log strengths (Davidson 1970).

    P(win) ∝ e^{d/2}, P(tie) ∝ ν, P(loss) ∝ e^{−d/2}.
    """
    half = np.asarray(difference, dtype=np.float64) / 2
    logits = np.stack([half, np.full_like(half, log_nu), -half], axis=-1)
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def are_connected(first: ArrayLike, second: ArrayLike, count: int) -> bool:
    """Returns whether comparisons lead from each of `count` models to every other one."""
    reached, edges = {0}, set(zip(np.asarray(first).tolist(), np.asarray(second).tolist()))
    while grown := {b for a, b in edges | {(b, a) for a, b in edges} if a in reached} - reached:
        reached |= grown
    return len(reached) == count


def davidson_strengths(
    first: ArrayLike,
    second: ArrayLike,
    outcomes: ArrayLike,
    prompts: ArrayLike,
    annotators: ArrayLike,
    count: int,
    half_wins: float = 0.5,
) -> Strengths:
    """Maximum-likelihood strengths of `count` models, ties after Davidson (1970), with sandwich intervals.

    The sandwich is clustered by prompt and annotator, so the intervals hold where the judgements of one prompt or
    annotator are alike, and where the model is only an approximation. Without ties it is Bradley–Terry.

    Args:
        first, second: `[n]`, numbers of the two models of each judgement.
        outcomes: `[n]`, 1 where the first is better, ½ for a tie, 0 where the second is.
        half_wins: wins that each model of a pair that met is given against the other one beside the judgements, which
            keeps a model finite that won always.

    Raises:
        ValueError: the comparisons do not lead from each model to every other one.
    """
    first, second = np.asarray(first, dtype=np.int64), np.asarray(second, dtype=np.int64)
    outcomes = np.asarray(outcomes, dtype=np.float64)
    if not are_connected(first, second, count):
        raise ValueError("The comparisons do not lead from each model to every other one.")
    design = np.zeros((len(first), count))
    design[np.arange(len(first)), first], design[np.arange(len(first)), second] = 0.5, -0.5
    basis = np.linalg.svd(np.ones((1, count)))[2][1:].T  # [models, models - 1], orthogonal to the mean
    has_ties = bool(np.any(outcomes == 0.5))
    parameters, influence = _fit(design @ basis, outcomes, has_ties, half_wins)
    size = count - 1
    log_strengths = basis @ parameters[:size]
    moves = influence[:, :size] @ basis.T  # [n, models]
    clusters = cluster_numbers(prompts), cluster_numbers(annotators)
    number = int(clusters[0].max()) + 1

    def interval(value: float, along: Floats) -> Interval:
        return mean_interval(value, two_way_variance(along, *clusters), len(first), number)

    return Strengths(
        log_strengths=log_strengths,
        log_nu=float(parameters[size]) if has_ties else -math.inf,
        intervals=[interval(float(log_strengths[i]), moves[:, i]) for i in range(count)],
        pairs={
            (i, j): interval(float(log_strengths[i] - log_strengths[j]), moves[:, i] - moves[:, j])
            for i in range(count)
            for j in range(i + 1, count)
        },
    )


def _fit(
    half_design: Floats, outcomes: Floats, has_ties: bool, half_wins: float, steps: int = 100
) -> tuple[Floats, Floats]:
    """Newton's method; returns the parameters (of half differences, then log ν) and the influence `[n, parameters]`."""
    pseudo = np.unique(np.concatenate([half_design, -half_design]), axis=0) if half_wins else half_design[:0]
    rows = np.concatenate([half_design, pseudo])
    weights = np.concatenate([np.ones(len(outcomes)), np.full(len(pseudo), half_wins)])
    results = np.concatenate([outcomes, np.ones(len(pseudo))])
    size = rows.shape[1]
    won = np.stack([results == 1, results == 0.5, results == 0], axis=1).astype(np.float64)
    # Logits of win, tie and loss are linear in the parameters: [n, 3, parameters].
    features = np.zeros((len(rows), 3, size + has_ties))
    features[:, 0, :size], features[:, 2, :size] = rows, -rows
    if has_ties:
        features[:, 1, size] = 1.0
    parameters = np.zeros(size + has_ties)
    for _ in range(steps):
        logits = features @ parameters
        if not has_ties:
            logits[:, 1] = -np.inf
        chances = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        scores = np.einsum("nk,nkp->np", won - chances, features)
        means = np.einsum("nk,nkp->np", chances, features)
        second = np.einsum("n,nk,nkp,nkq->pq", weights, chances, features, features)
        information = second - np.einsum("n,np,nq->pq", weights, means, means)
        step = np.linalg.solve(information, weights @ scores)
        parameters = parameters + step * min(1.0, 2.0 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-10:
            break
    return parameters, np.linalg.solve(information, scores[: len(outcomes)].T).T


def judgements_needed(
    win_rate: float,
    tie_rate: float = 0.0,
    power: float = 0.8,
    confidence: float = CONFIDENCE,
    design_effect: float = 1.0,
) -> int:
    """Number of judgements of a pair of models that shows a win rate to differ from ½ with this power.

    n = D·((z_{1−α/2}·σ_0 + z_power·σ_1) / |w − ½|)², where σ² = w(1 − w) − t/4 is the variance of a judgement at the
    win rate w and the tie rate t, and σ_0 that at ½.

    Args:
        win_rate: ties counted ½; not ½.
        tie_rate: below 1, and possible at this win rate.
        design_effect: variance against that of independent judgements; see `design_effect`.

    Raises:
        ValueError: the rates cannot be.
    """
    gap = abs(win_rate - 0.5)
    if gap == 0 or not 0 <= tie_rate < 1 or tie_rate > 1 - 2 * gap + 1e-12:
        raise ValueError(f"A win rate of {win_rate} with a tie rate of {tie_rate} cannot be planned with.")
    normal = NormalDist()
    at_half = math.sqrt((1 - tie_rate) / 4)
    at_rate = math.sqrt(max(0.0, win_rate * (1 - win_rate) - tie_rate / 4))
    width = normal.inv_cdf((1 + confidence) / 2) * at_half + normal.inv_cdf(power) * at_rate
    return max(2, math.ceil(design_effect * (width / gap) ** 2 - 1e-9))


def design_effect(
    overlap: float, prompt_correlation: float, each: float, annotator_correlation: float
) -> float:
    """Variance of a win rate against that of as many independent judgements.

    1 + (overlap − 1)·ρ_prompt + (each − 1)·ρ_annotator (Kish 1965, extended to two crossed clusters).

    Args:
        overlap: judgements of a pair of videos.
        prompt_correlation, annotator_correlation: of two judgements of one prompt, and of one annotator.
        each: judgements of an annotator.
    """
    return 1 + (overlap - 1) * prompt_correlation + (each - 1) * annotator_correlation


@dataclass(frozen=True)
class Stopping:
    """Answer of the width rule for one pair of models.

    Attributes:
        width: of the interval now; NaN below six prompts.
        stop: it is at most what was asked for.
        more: forecast of the judgements that are still to be given; 0 where it may stop, None where no number of
            judgements by the same annotators would do, or nothing is known yet.
        annotators: forecast of the annotators that it takes where more judgements alone do not do; else None.
    """

    width: float
    stop: bool
    more: int | None
    annotators: int | None


def _width_by_prompts(result: PairResult) -> float:
    """Width of the interval of a win rate for the annotators who gave the judgements, and no others."""
    rate, known = result.win_rate, result.variance
    alone = Variance(known.prompts, known.prompts, 0.0, ((known.prompts, known.parts[0][1]),))
    interval = share_interval(rate.mean, alone, rate.n, result.prompts)
    return interval.high - interval.low


def _share_of_annotators(variance: Variance) -> float:
    """Share of the squared width of an interval that stays however many judgements the same annotators give."""
    margin = student_margin(variance)
    if variance.annotators == 0 or margin == 0:
        return 0.0
    quantile = student_quantile((1 + CONFIDENCE) / 2, variance.parts[-1][1])
    return min(1.0, quantile**2 * variance.annotators / margin**2)


def stopping(result: PairResult, width: float) -> Stopping:
    """Says whether the interval of a win rate is as narrow as asked for, and forecasts what is missing.

    A width rule, after Chow & Robbins (1965): stop at the first look at which √(w² + (2z/n)²) is at most the width
    asked for, where w is the width of the interval. It looks at the spread of the judgements and never at who is
    ahead, so looking often costs no coverage in the limit of narrow intervals; z/n, the 1/n of their variance, keeps
    a first run of equal answers from ending it. Annotators who are alike by chance do not end it either: the interval
    by prompts alone has to be as narrow too.
    The forecast scales what falls with prompts of the squared width by 1/n, and leaves the part of the annotators.

    Args:
        width: whole width of the interval of the win rate, above 0.
    """
    now, judgements = result.width, result.win_rate.n
    if math.isnan(now):
        return Stopping(now, False, None, None)
    least = max(now, _width_by_prompts(result))
    guarded = math.hypot(least, 2 * NormalDist().inv_cdf((1 + CONFIDENCE) / 2) / judgements)
    if guarded <= width:
        return Stopping(now, True, 0, None)
    of_annotators = _share_of_annotators(result.variance)
    left = (width / guarded) ** 2 - of_annotators
    if left > 0:
        factor = (1 - of_annotators) / left
        return Stopping(now, False, max(1, math.ceil(judgements * (factor - 1))), None)
    return Stopping(now, False, None, math.ceil(result.annotators * (guarded / width) ** 2))
