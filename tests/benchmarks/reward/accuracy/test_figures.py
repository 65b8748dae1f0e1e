"""The rank correlation of the accuracy benchmark against scipy's."""

import numpy as np
import pytest
import scipy.stats

from benchmarks.reward.accuracy.figures import average_ranks, spearman


def test_ranks_and_spearman_match_scipy_with_ties() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 6, 50), rng.integers(0, 6, 50)
    np.testing.assert_allclose(average_ranks(a), scipy.stats.rankdata(a))
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
