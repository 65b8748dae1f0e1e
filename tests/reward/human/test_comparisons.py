"""Win rates, strengths and plans against choix, scipy and a likelihood written by hand."""

from __future__ import annotations

import math

import choix
import numpy as np
import pytest
from scipy import optimize, stats

from reward.human.comparisons import (
    davidson_probabilities,
    davidson_strengths,
    design_effect,
    judgements_needed,
    pair_result,
    stopping,
)

STRENGTHS = np.array([0.8, 0.2, -0.3, -0.7])


def drawn(n: int, nu: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    first = rng.integers(4, size=n)
    second = (first + rng.integers(1, 4, size=n)) % 4
    weights = np.exp(STRENGTHS)
    a, b = weights[first], weights[second]
    tie = nu * np.sqrt(a * b)
    chance = rng.random(n) * (a + b + tie)
    return first, second, np.where(chance < a, 1.0, np.where(chance < a + tie, 0.5, 0.0))


def test_davidson_is_the_maximum_of_its_likelihood() -> None:
    first, second, outcomes = drawn(400, 0.8)

    def negative_log_likelihood(x: np.ndarray) -> float:
        pi, nu = np.exp(np.append(x[:3], -x[:3].sum())), math.exp(x[3])
        a, b = pi[first], pi[second]
        tie = nu * np.sqrt(a * b)
        chosen = np.where(outcomes == 1, a, np.where(outcomes == 0, b, tie))
        return float(-np.log(chosen / (a + b + tie)).sum())

    wanted = optimize.minimize(negative_log_likelihood, np.zeros(4), tol=1e-10).x
    found = davidson_strengths(first, second, outcomes, np.arange(400), np.arange(400) % 5, 4, half_wins=0)
    assert found.log_strengths[:3] == pytest.approx(wanted[:3], abs=1e-5)
    assert found.log_strengths.sum() == pytest.approx(0, abs=1e-9)
    assert found.log_nu == pytest.approx(wanted[3], abs=1e-5)
    # Of independent judgements of the model itself, the sandwich is the inverse of the information.
    hessian = np.zeros((4, 4))
    for i, j in np.ndindex(4, 4):
        e, f = 1e-3 * np.eye(4)[i], 1e-3 * np.eye(4)[j]
        value = [
            negative_log_likelihood(wanted + s * e + t * f) for s, t in ((1, 1), (1, -1), (-1, 1), (-1, -1))
        ]
        hessian[i, j] = (value[0] - value[1] - value[2] + value[3]) / 4e-6
    deviation = math.sqrt(np.linalg.inv(hessian)[0, 0])
    alone = davidson_strengths(first, second, outcomes, np.arange(400), np.zeros(400), 4, half_wins=0)
    assert (alone.intervals[0].high - alone.intervals[0].low) / 3.92 == pytest.approx(deviation, rel=0.1)


def test_without_ties_it_is_the_bradley_terry_of_choix() -> None:
    first, second, outcomes = drawn(300, 0.0)
    found = davidson_strengths(first, second, outcomes, np.arange(300), np.arange(300) % 5, 4, half_wins=0)
    won = [(a, b) if w == 1 else (b, a) for a, b, w in zip(first, second, outcomes)]
    assert found.log_strengths == pytest.approx(choix.opt_pairwise(4, won), abs=1e-4)
    assert found.log_nu == -math.inf


def test_a_model_that_wins_always_stays_finite_and_models_that_never_meet_are_refused() -> None:
    first, second = np.repeat([0, 1, 0], 20), np.repeat([1, 2, 2], 20)
    found = davidson_strengths(first, second, np.ones(60), np.arange(60) % 20, np.arange(60) % 4, 3)
    assert list(np.argsort(-found.log_strengths)) == [0, 1, 2]
    assert np.isfinite(found.log_strengths).all()
    with pytest.raises(ValueError, match="do not lead"):
        davidson_strengths([0, 2], [1, 3], [1.0, 0.0], [0, 1], [0, 0], 4)


def test_the_probabilities_are_davidsons_and_sum_to_one() -> None:
    pi, nu = np.exp([0.9, -0.4]), 0.7
    tie = nu * math.sqrt(pi[0] * pi[1])
    wanted = np.array([pi[0], tie, pi[1]]) / (pi.sum() + tie)
    assert davidson_probabilities(1.3, math.log(nu)) == pytest.approx(wanted)
    assert davidson_probabilities([800.0, -800.0], 0.0).sum(axis=1) == pytest.approx([1, 1])


def test_a_win_rate_counts_ties_half_and_its_interval_grows_with_the_taste_of_annotators() -> None:
    prompts, annotators = np.arange(120) // 4, np.arange(120) % 4
    alike = np.random.default_rng(0).permutation(np.repeat([1.0, 0.5, 0.0], [60, 40, 20]))
    found = pair_result(alike, prompts, annotators)
    assert found.win_rate.mean == pytest.approx(4 / 6)
    assert (found.tie_rate, found.prompts, found.annotators) == (pytest.approx(1 / 3), 30, 4)
    assert found.win_rate.low > 0.5
    tastes = np.where(annotators == 0, 0.0, 1.0)
    split = pair_result(tastes, prompts, annotators)
    assert split.variance.annotators > 0
    assert split.width > 2 * found.width
    assert split.p_value > 0.05


@pytest.mark.parametrize(("rate", "ties"), [(0.6, 0.0), (0.65, 0.2), (0.3, 0.4)])
def test_the_planned_judgements_find_the_difference_as_often_as_planned(rate: float, ties: float) -> None:
    n = judgements_needed(rate, ties)
    rng = np.random.default_rng(1)
    wins = rate - ties / 2
    counts = rng.multinomial(n, [wins, ties, 1 - wins - ties], size=20_000)
    means = (counts[:, 0] + counts[:, 1] / 2) / n
    at_half = np.sqrt((counts[:, 0] + counts[:, 2]) / n / 4 / n)
    found = np.abs(means - 0.5) > stats.norm.ppf(0.975) * at_half
    assert found.mean() == pytest.approx(0.8, abs=0.03)


def test_a_plan_grows_with_clusters_and_refuses_what_cannot_be() -> None:
    assert design_effect(3, 0.2, 50, 0.01) == pytest.approx(1 + 0.4 + 0.49)
    assert judgements_needed(0.6, design_effect=2.0) == pytest.approx(2 * judgements_needed(0.6), abs=1)
    for rate, ties in ((0.5, 0.0), (0.9, 0.4), (0.6, 1.0)):
        with pytest.raises(ValueError, match="cannot be planned"):
            judgements_needed(rate, ties)


def test_the_width_rule_stops_at_the_width_and_forecasts_what_is_missing() -> None:
    rng = np.random.default_rng(2)
    outcomes = rng.choice([1.0, 0.5, 0.0], size=4000, p=[0.5, 0.2, 0.3])

    def first(n: int):
        return pair_result(outcomes[:n], np.arange(n), np.zeros(n))

    early = stopping(first(200), 0.1)
    assert not early.stop
    assert early.more is not None
    planned = 200 + early.more
    assert first(planned).width == pytest.approx(0.1, rel=0.1)
    assert stopping(first(4000), 0.1).stop
    assert stopping(first(4000), 0.1).more == 0
    assert not stopping(pair_result(np.ones(12), np.arange(12), np.arange(12) % 3), 0.1).stop
    assert stopping(first(5), 0.1).more is None


def test_where_annotators_differ_more_annotators_are_asked_for_and_not_more_judgements() -> None:
    prompts, annotators = np.arange(2000) // 4, np.arange(2000) % 4
    split = pair_result(np.where(annotators < 2, 0.0, 1.0), prompts, annotators)
    advice = stopping(split, 0.1)
    assert (advice.stop, advice.more) == (False, None)
    assert advice.annotators is not None
    assert advice.annotators > 4
