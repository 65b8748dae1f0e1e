"""Pure parts of the benchmark of rewriters."""

from importlib import import_module

import pytest
import torch
from scipy import stats

rewriter = import_module("benchmarks.generator.rewriter")


def test_the_paired_interval_is_scipys():
    scores, others = torch.rand(200, dtype=torch.float64), torch.rand(200, dtype=torch.float64)
    mean, half = rewriter.paired(scores, others)
    difference = (scores - others).numpy()
    low, high = stats.norm.interval(0.95, difference.mean(), stats.sem(difference))
    assert (mean - half, mean + half) == pytest.approx((low, high), abs=1e-4)


def test_the_share_of_kept_claims_is_that_of_all_prompts_together():
    prompts = ["a red circle moves left", "two stars"]
    assert rewriter.kept_share(prompts, ["a red circle moves left", "two stars"]) == 1
    assert rewriter.kept_share(prompts, ["a red circle", "a small star"]) == 5 / 7
