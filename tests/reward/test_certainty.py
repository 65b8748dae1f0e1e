"""Reward models whose held-out accuracy may be chance."""

import json

import numpy as np
import pytest

from reward.certainty import judged_dimensions, side_baseline, uncertain_accuracy, uncertain_dimensions
from reward.metrics import Pairs, evaluate_pairs


def figures(right, first, pairs=200, seed=0):
    """Held-out figures of a model that orders the share `right` of pairs, of which `first` prefer the first video."""
    random = np.random.default_rng(seed)
    label = np.where(np.arange(pairs) < first * pairs, 1, -1)
    correct = random.permutation(np.arange(pairs) < right * pairs)
    difference = np.where(correct, label, -label) * random.uniform(0.1, 1, pairs)
    return evaluate_pairs(Pairs(difference, label, np.arange(pairs) // 4), None)


@pytest.mark.parametrize(
    ("right", "first", "uncertain"),
    [
        (0.9, 0.5, []),
        (0.52, 0.5, ["overall"]),
        (0.4, 0.5, ["overall"]),  # surely below chance is no better
        (0.8, 0.8, ["overall"]),  # as good as always preferring the first
        (0.8, 0.2, ["overall"]),  # … or the second
        (0.8, 0.55, []),
    ],
)
def test_an_accuracy_is_uncertain_where_its_interval_is_not_above_preferring_one_side(
    right, first, uncertain
):
    metrics = {"overall": {"train": None, "held_out": figures(right, first)}, "best_epoch": 3}
    assert uncertain_dimensions(metrics) == uncertain
    assert side_baseline(metrics["overall"]["held_out"]) == pytest.approx(max(first, 1 - first), abs=0.01)


def test_only_the_dimensions_that_are_the_reward_count():
    good, bad = {"held_out": figures(0.9, 0.5)}, {"held_out": figures(0.5, 0.5)}
    both = {"visual": good, "motion": bad, "best_epoch": 2.0, "loss": {"type": "plackett_luce"}}
    assert judged_dimensions(both, None) == ["visual", "motion"]
    assert uncertain_dimensions(both) == ["motion"]
    assert uncertain_dimensions(both, "visual") == []
    assert uncertain_dimensions({**both, "overall": good}) == []
    assert judged_dimensions(both, "brightness") == []


def test_nothing_is_said_where_nothing_is_known(tmp_path):
    assert uncertain_accuracy("world") is None
    assert uncertain_accuracy(tmp_path) is None
    for metrics in (
        {"overall": {"train": figures(0.5, 0.5), "held_out": None}},
        {"overall": {"held_out": figures(0.5, 0.5, pairs=8)}},  # two prompts have no interval
        ["no object"],
    ):
        (tmp_path / "metrics.json").write_text(json.dumps(metrics))
        assert uncertain_accuracy(tmp_path) is None
    (tmp_path / "metrics.json").write_text("{")
    assert uncertain_accuracy(tmp_path) is None


def test_the_sentence_has_the_figures(tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"overall": {"held_out": figures(0.575, 0.593)}}))
    said = uncertain_accuracy(tmp_path)
    assert str(tmp_path) in said
    assert "accuracy in overall is 0.575 [" in said
    assert "always preferring the same side has 0.595" in said
