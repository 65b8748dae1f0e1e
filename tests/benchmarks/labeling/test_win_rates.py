"""Truth of the benchmark of human win rates: quadrature against draws."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.labeling.win_rates import NOISE, SKILL_SPREAD, SUITS, gap_of, judge, true_rates


@pytest.mark.parametrize(("gap", "taste"), [(0.07, 0.0), (0.2, 0.08)])
def test_the_true_rates_are_those_of_many_draws(gap: float, taste: float) -> None:
    rng, n = np.random.default_rng(0), 400_000
    everyone = np.arange(n)
    skills = NOISE * rng.uniform(1 - SKILL_SPREAD, 1 + SKILL_SPREAD, n)
    suits, tastes = rng.normal(0, SUITS, n), rng.normal(0, taste, n)
    outcomes = judge(np.full(n, gap), everyone, everyone, skills, suits, tastes, rng)
    rate, tie = true_rates(gap, taste)
    assert outcomes.mean() == pytest.approx(rate, abs=0.003)
    assert np.mean(outcomes == 0.5) == pytest.approx(tie, abs=0.003)


def test_a_gap_has_the_win_rate_that_was_asked_for() -> None:
    assert true_rates(gap_of(0.6, 0.04), 0.04)[0] == pytest.approx(0.6, abs=1e-4)
