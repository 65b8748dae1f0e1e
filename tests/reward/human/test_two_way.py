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
    student_cdf,
    student_quantile,
    two_way_variance,
)


@pytest.mark.parametrize("degrees", [1.0, 1.7, 2.0, 3.2, 10.0, 250.5, 1e5])
def test_student_is_that_of_scipy(degrees: float) -> None:
    for value in (-40.0, -2.3, 0.0, 0.4, 6.0):
        assert student_cdf(value, degrees) == pytest.approx(stats.t.cdf(value, degrees), abs=1e-9)
    for probability in (0.02, 0.5, 0.6, 0.975, 0.9995):
        wanted = stats.t.ppf(probability, degrees)
        assert student_quantile(probability, degrees) == pytest.approx(wanted, rel=1e-5, abs=1e-9)


def test_the_variance_is_that_of_sums_written_out() -> None:
    rng = np.random.default_rng(3)
    prompts = rng.integers(9, size=120)
    annotators = rng.integers(4, size=120)
    values = rng.normal(size=120) + 0.8 * annotators
    influence = (values - values.mean()) / 120

    def squares(*clusters: np.ndarray) -> float:
        keys = sorted(set(zip(*(c.tolist() for c in clusters))))
        rows = [np.all([c == k for c, k in zip(clusters, key)], axis=0) for key in keys]
        return sum(influence[row].sum() ** 2 for row in rows) * len(keys) / (len(keys) - 1)

    found = two_way_variance(influence, prompts, annotators)
    assert found.prompts == pytest.approx(squares(prompts))
    assert found.annotators == pytest.approx(squares(annotators) - squares(prompts, annotators))
    assert found.total == pytest.approx(found.prompts + found.annotators)
    assert 1 < found.degrees < 9


def test_one_annotator_leaves_the_variance_of_prompts_and_its_degrees() -> None:
    values = np.arange(10.0)
    found = two_way_variance((values - values.mean()) / 10, np.arange(10), np.zeros(10, dtype=int))
    assert found.total == pytest.approx(values.var(ddof=1) / 10)
    assert (found.annotators, found.degrees) == (0.0, pytest.approx(9))
    low, high = stats.t.interval(0.95, 9, loc=values.mean(), scale=math.sqrt(found.total))
    interval = mean_interval(values.mean(), found, 10, 10)
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(("wins", "n"), [(7, 20), (0, 20), (20, 20), (31, 60)])
def test_of_independent_judgements_the_interval_is_wilsons(wins: int, n: int) -> None:
    share = wins / n
    spread = share * (1 - share)
    variance = Variance(spread / n, spread / n, 0.0, 1e9)
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
    variance = Variance(0.004, 0.004, 0.0, degrees)
    interval = share_interval(share, variance, 80, 80)
    assert (share_p_value(share, variance, 80) < 0.05) == (interval.low > 0.5 or interval.high < 0.5)


def test_five_prompts_have_no_interval() -> None:
    variance = Variance(0.01, 0.01, 0.0, 4.0)
    assert math.isnan(share_interval(0.6, variance, 50, 5).low)
    assert math.isnan(share_p_value(0.6, variance, 5))
    assert math.isnan(mean_interval(0.6, variance, 50, 5).high)
