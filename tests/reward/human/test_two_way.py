"""Intervals clustered by prompt and annotator, against scipy and hand-written sums."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from reward.human.two_way import (
    Variance,
    mean_interval,
    share_interval,
    share_p_value,
    student_margin,
    student_quantile,
    student_tail,
    two_way_variance,
)


def by_prompts(value: float, degrees: float) -> Variance:
    """A variance of prompts alone."""
    return Variance(value, value, 0.0, ((value, degrees),))


@pytest.mark.parametrize("degrees", [1.0, 1.7, 2.0, 3.2, 10.0, 250.5, 1e5])
def test_student_is_that_of_scipy(degrees: float) -> None:
    for value in (0.0, 0.4, 2.3, 6.0, 40.0):
        assert student_tail(value, degrees) == pytest.approx(stats.t.sf(value, degrees), rel=1e-8)
    for probability in (0.02, 0.5, 0.6, 0.975, 0.9995, 1 - 1e-10):
        wanted = stats.t.isf(1 - probability, degrees)
        assert student_quantile(probability, degrees) == pytest.approx(wanted, rel=1e-6, abs=1e-9)


def test_the_variance_is_that_of_sums_written_out() -> None:
    rng = np.random.default_rng(3)
    prompts = rng.integers(9, size=120)
    annotators = rng.integers(4, size=120)
    values = rng.normal(size=120) + 0.8 * annotators + 0.5 * prompts
    influence = (values - values.mean()) / 120

    def squares(*clusters: np.ndarray) -> float:
        keys = sorted(set(zip(*(c.tolist() for c in clusters))))
        rows = [np.all([c == k for c, k in zip(clusters, key)], axis=0) for key in keys]
        return sum(influence[row].sum() ** 2 for row in rows) * len(keys) / (len(keys) - 1)

    found = two_way_variance(influence, prompts, annotators)
    assert found.prompts == pytest.approx(squares(prompts))
    assert found.annotators == pytest.approx(squares(annotators) - squares(prompts, annotators))
    assert found.total == pytest.approx(found.prompts + found.annotators)
    (of_prompts, degrees), (of_annotators, others) = found.parts
    alone = max(0.0, squares(prompts) - squares(prompts, annotators))
    assert (of_prompts, of_annotators) == pytest.approx((alone, squares(annotators)))
    for names, found_degrees in ((prompts, degrees), (annotators, others)):
        sizes = np.unique(names, return_counts=True)[1]
        assert found_degrees == pytest.approx(120**2 / (sizes**2).sum() - 1)


def test_the_margin_gives_each_part_its_own_student() -> None:
    variance = Variance(0.005, 0.002, 0.003, ((0.0015, 79.0), (0.0042, 2.0)))
    for confidence in (0.5, 0.95):
        quantiles = stats.t.ppf((1 + confidence) / 2, [79, 2])
        wanted = math.sqrt(quantiles[0] ** 2 * 0.0015 + quantiles[1] ** 2 * 0.0042)
        assert student_margin(variance, confidence) == pytest.approx(wanted, rel=1e-6)
    alike = Variance(0.002, 0.002, 0.0, ((0.0, 79.0), (1e-9, 2.0)))  # by chance
    assert student_margin(alike) == pytest.approx(stats.t.ppf(0.975, 79) * math.sqrt(0.002) / 2, rel=1e-6)


@pytest.mark.parametrize("people", [2, 3, 6])
def test_intervals_of_few_annotators_who_differ_hold_the_truth(people: int) -> None:
    rng = np.random.default_rng(people)
    prompts, annotators = np.arange(40 * people) // people, np.arange(40 * people) % people
    held = 0
    for _ in range(600):
        tastes = rng.normal(0, 0.6, people)[annotators]
        values = tastes + rng.normal(0, 0.5, 40)[prompts] + rng.normal(size=40 * people)
        variance = two_way_variance((values - values.mean()) / values.size, prompts, annotators)
        interval = mean_interval(values.mean(), variance, values.size, 40)
        held += interval.low <= 0 <= interval.high
    assert held / 600 == pytest.approx(0.95, abs=0.025)


def test_one_annotator_leaves_the_variance_of_prompts_and_its_degrees() -> None:
    values = np.arange(10.0)
    found = two_way_variance((values - values.mean()) / 10, np.arange(10), np.zeros(10, dtype=int))
    assert found.total == pytest.approx(values.var(ddof=1) / 10)
    assert (found.annotators, found.parts) == (0.0, ((pytest.approx(found.total), pytest.approx(9)),))
    low, high = stats.t.interval(0.95, 9, loc=values.mean(), scale=math.sqrt(found.total))
    interval = mean_interval(values.mean(), found, 10, 10)
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(("wins", "n"), [(7, 20), (0, 20), (20, 20), (31, 60)])
def test_of_independent_judgements_the_interval_is_wilsons(wins: int, n: int) -> None:
    share = wins / n
    spread = share * (1 - share)
    variance = by_prompts(spread / n, 1e9)
    wanted = stats.binomtest(wins, n).proportion_ci(method="wilson")
    found = share_interval(share, variance, n, n)
    assert (found.low, found.high) == (
        pytest.approx(wanted.low, abs=1e-6),
        pytest.approx(wanted.high, abs=1e-6),
    )


@pytest.mark.parametrize(("share", "degrees"), list(product([0.55, 0.62, 0.7, 0.3], [2.5, 40.0])))
def test_the_p_value_is_below_a_twentieth_exactly_where_the_interval_leaves_out_a_half(
    share: float, degrees: float
) -> None:
    variance = Variance(0.004, 0.002, 0.002, ((0.001, 60.0), (0.003, degrees)))
    interval = share_interval(share, variance, 80, 80)
    alone = 2 * stats.t.sf(2 * abs(share - 0.5) * math.sqrt(share * (1 - share) / 0.004), degrees)
    assert share_p_value(share, by_prompts(0.004, degrees), 80) == pytest.approx(alone, abs=1e-6)
    assert (share_p_value(share, variance, 80) < 0.05) == (interval.low > 0.5 or interval.high < 0.5)


def test_five_prompts_have_no_interval() -> None:
    variance = by_prompts(0.01, 4.0)
    assert math.isnan(share_interval(0.6, variance, 50, 5).low)
    assert math.isnan(share_p_value(0.6, variance, 5))
    assert math.isnan(mean_interval(0.6, variance, 50, 5).high)
