"""Figures of the accuracy benchmark: the rank correlation against scipy's, and models that judge together."""

from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from safetensors.torch import load_file, save_file

from benchmarks.reward.accuracy.figures import average_ranks, spearman, together
from benchmarks.reward.accuracy.run import in_half_precision
from reward.preferences import Ranking


def test_ranks_and_spearman_match_scipy_with_ties() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(0, 6, 50), rng.integers(0, 6, 50)
    np.testing.assert_allclose(average_ranks(a), scipy.stats.rankdata(a))
    assert spearman(a, b) == pytest.approx(scipy.stats.spearmanr(a, b).statistic)


def test_models_that_judge_together_are_right_where_their_mean_standardised_score_is() -> None:
    prompts = [f"prompt {row}" for row in range(8)]
    rankings = [Ranking(prompt, ["a", "b", "c"], [0, 1, 1]) for prompt in prompts]  # type: ignore[list-item]
    first, second = np.tile([3.0, 2.0, 0.0], (8, 1)), np.tile([10.0, 30.0, 0.0], (8, 1))
    # In units of their own deviations: 1.34 + 0, 0.27 + 1.34, …: the second video is the best of all.
    found = together([first, second], rankings, prompts)
    assert found.mean == 0.5
    assert together([first], rankings, prompts).mean == 1
    assert together([100 * first, second / 100], rankings, prompts).mean == found.mean


def test_weights_are_stored_in_half_precision_and_numbers_as_they_are(tmp_path: Path) -> None:
    weights = {"weight": torch.randn(8, 8), "count": torch.tensor([3])}
    save_file(weights, tmp_path / "w.safetensors")
    in_half_precision(tmp_path / "w.safetensors")
    found = load_file(tmp_path / "w.safetensors")
    assert (found["weight"].dtype, found["count"].dtype) == (torch.float16, torch.int64)
    torch.testing.assert_close(found["weight"].float(), weights["weight"], atol=2e-3, rtol=1e-3)
