import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from reward.metrics import (
    Pairs,
    accuracy_with_ties,
    accuracy_without_ties,
    calibration_error_by_chance,
    evaluate_pairs,
    expected_calibration_error,
    fit_temperature,
    majority_baseline,
    pairs_of_rankings,
    tie_rate,
    tie_threshold,
)


def random_pairs(seed: int, n: int = 300, levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    difference = rng.normal(size=n)
    label = np.where(
        np.abs(difference + rng.normal(size=n)) < 0.5, 0, np.sign(difference + rng.normal(size=n))
    )
    if levels:
        difference = np.round(difference * levels) / levels
    return difference, label.astype(int)


def test_accuracy_without_ties_leaves_out_tied_labels_and_halves_equal_scores():
    assert accuracy_without_ties([1, -1, 0, 5, 2], [1, 1, 1, 0, -1]) == pytest.approx((1 + 0 + 0.5 + 0) / 4)


@pytest.mark.parametrize("levels", [None, 1, 2])
def test_tie_threshold_is_the_best_of_all_thresholds(levels):
    difference, label = random_pairs(0, levels=levels)
    candidates = [-1.0, *np.abs(difference)]
    best = max(accuracy_with_ties(difference, label, t) for t in candidates)
    assert accuracy_with_ties(difference, label, tie_threshold(difference, label)) == pytest.approx(best)


def test_discrete_scores_gain_nothing_from_inside_a_group_of_equal_differences():
    difference = np.array([1.0, 1.0, 1.0, 1.0])
    label = np.array([0, 0, 1, 1])
    threshold = tie_threshold(difference, label)
    assert accuracy_with_ties(difference, label, threshold) == 0.5


def test_tie_rate_and_majority_baseline_count_labels():
    label = [1, 1, -1, 0, 0, 0]
    assert tie_rate(label) == 0.5
    assert majority_baseline(label) == 0.5


def test_calibration_error_of_known_bins():
    probability = [0.95] * 10 + [0.55] * 10
    outcome = [1] * 9 + [0] + [1] * 5 + [0] * 5
    assert expected_calibration_error(probability, outcome) == pytest.approx(0.5 * 0.05 + 0.5 * 0.05)


def test_calibrated_probabilities_have_nearly_no_calibration_error():
    rng = np.random.default_rng(1)
    probability = rng.uniform(size=40000)
    assert expected_calibration_error(probability, rng.uniform(size=40000) < probability) < 0.01


def test_temperature_is_scipys_maximum_of_likelihood_and_prior():
    rng = np.random.default_rng(2)
    difference = rng.normal(size=500) * 3
    label = np.where(rng.uniform(size=500) < 1 / (1 + np.exp(-difference / 2.5)), 1, -1)
    pairs = Pairs(difference, label, np.arange(500))
    found = scipy.optimize.minimize_scalar(
        lambda t: np.logaddexp(0, -difference * label / t).sum() + np.log(t) ** 2 / 2,
        bounds=(0.1, 20),
        method="bounded",
    )
    assert fit_temperature(pairs) == pytest.approx(found.x, rel=1e-3)


def test_few_pairs_that_are_all_right_make_no_model_certain():
    few = Pairs(np.array([0.5, 1.0, 0.8]), np.ones(3), np.arange(3))
    assert 0.3 < fit_temperature(few) < 1


def test_pairs_of_rankings_leave_out_missing_videos():
    pairs = pairs_of_rankings([[3.0, 1.0, 2.0]], [[1, -1, 1]], ["p"])
    assert pairs.difference.tolist() == [1.0]
    assert pairs.label.tolist() == [0]
    assert pairs.cluster.tolist() == ["p"]


def test_evaluation_takes_the_threshold_from_the_calibration_split_only():
    difference, label = random_pairs(4)
    test = Pairs(difference, label, np.arange(len(label)) // 6)
    no_ties = Pairs(np.array([1.0, -1.0]), np.array([1, -1]), np.array([0, 1]))
    figures = evaluate_pairs(test, no_ties)
    assert figures["tie_threshold"] == -1.0
    assert figures["accuracy"]["mean"] == pytest.approx(accuracy_without_ties(difference, label))
    assert figures["accuracy"]["low"] < figures["accuracy"]["mean"] < figures["accuracy"]["high"]
    assert figures["accuracy"]["clusters"] == 50
    assert figures["pairs"] == 300


def test_the_calibration_error_by_chance_is_what_perfectly_calibrated_outcomes_show():
    random = np.random.default_rng(1)
    probability = random.uniform(0.5, 1, 300)
    seen = [expected_calibration_error(probability, random.random(300) < probability) for _ in range(200)]
    by_chance = calibration_error_by_chance(probability)
    assert by_chance == pytest.approx(np.mean(seen), rel=0.1)
    assert calibration_error_by_chance(np.repeat(probability, 100)) < 0.15 * by_chance
    assert np.isnan(calibration_error_by_chance([]))
