import numpy as np
import pytest
import scipy.stats

from reward.statistics import (
    LEAST_CLUSTERS,
    _student_quantile,
    cluster_bootstrap,
    detectable_difference,
    deviation_of_differences,
    holm,
    interval_text,
    paired_difference,
    prompts_needed,
    resampled_means,
    upper_limit_of_deviation,
    win_rate,
)


def test_student_quantiles_match_scipy():
    for degrees in (1, 2, 3, 5, 10, 50, 500):
        expected = scipy.stats.t.ppf(0.025, degrees)
        assert _student_quantile(0.025, degrees) == pytest.approx(
            expected, rel=0.06 if degrees == 3 else 5e-3
        )


def test_resampled_means_have_the_percentiles_of_scipy_bootstrap():
    values = np.random.default_rng(0).gamma(2.0, size=60)
    ours = np.quantile(resampled_means(values, np.arange(60), 20000, seed=1), [0.025, 0.975])
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=20000, rng=np.random.default_rng(2)
    ).confidence_interval
    assert ours == pytest.approx([theirs.low, theirs.high], abs=0.02)


def test_interval_of_normal_values_is_as_wide_as_students():
    values = np.random.default_rng(3).normal(size=12)
    interval = cluster_bootstrap(values, np.arange(12), resamples=40000)
    low, high = scipy.stats.t.interval(0.95, 11, loc=values.mean(), scale=scipy.stats.sem(values))
    assert interval.high - interval.low == pytest.approx(high - low, rel=0.08)
    assert interval.mean == pytest.approx(values.mean())


def test_copies_of_a_cluster_do_not_narrow_the_interval():
    values = np.random.default_rng(4).normal(size=40)
    once = cluster_bootstrap(values, np.arange(40))
    thrice = cluster_bootstrap(np.repeat(values, 3), np.repeat(np.arange(40), 3))
    assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
    assert (thrice.n, thrice.clusters) == (120, 40)


def test_unequal_clusters_give_the_mean_over_videos():
    interval = cluster_bootstrap([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert interval.mean == 0.75


@pytest.mark.parametrize("prompts", [1, 2, 5])
def test_few_prompts_give_a_mean_but_no_interval_and_no_test(prompts):
    clusters = np.repeat(np.arange(prompts), 3)
    values = np.arange(3 * prompts, dtype=float)
    found = cluster_bootstrap(values, clusters)
    assert found.mean == values.mean()
    assert (found.as_dict()["low"], found.as_dict()["high"]) == (None, None)
    assert interval_text(found.as_dict()) == "[too few prompts for an interval]"
    difference = paired_difference(values + 1, values, clusters).as_dict()
    assert difference["p_value"] is None
    assert difference["win_rate"]["low"] is None
    assert not found.excludes_zero()


def test_six_prompts_are_the_fewest_whose_resampling_can_cover_95_percent():
    """The means of m prompts all lie above their true median, or all below, with the probability 2 · 2^-m."""
    assert min(m for m in range(1, 20) if 1 - 2 * 0.5**m >= 0.95) == LEAST_CLUSTERS
    found = cluster_bootstrap(np.arange(6.0), np.arange(6))
    assert found.low < 2.5 < found.high


def test_coverage_of_the_interval_is_near_95_percent():
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(300):
        effect = rng.normal(size=(30, 1))
        values = 0.5 + effect + 0.5 * rng.normal(size=(30, 3))
        interval = cluster_bootstrap(values.ravel(), np.repeat(np.arange(30), 3), resamples=600, seed=trial)
        hits += interval.low <= 0.5 <= interval.high
    assert 0.92 <= hits / 300 <= 0.98


def test_pairing_removes_what_prompts_have_in_common():
    rng = np.random.default_rng(6)
    difficulty = rng.normal(size=80)
    a, b = difficulty + 0.1, difficulty + 0.02 * rng.normal(size=80)
    result = paired_difference(a, b, np.arange(80))
    assert result.interval.low > 0.08
    assert result.interval.high < 0.12
    assert result.p_value < 0.001
    assert cluster_bootstrap(a, np.arange(80)).low < cluster_bootstrap(b, np.arange(80)).high


def test_p_value_agrees_with_the_paired_t_test():
    rng = np.random.default_rng(7)
    a, b = rng.normal(0.25, 1, size=100), rng.normal(0, 1, size=100)
    ours = paired_difference(a, b, np.arange(100), resamples=20000).p_value
    assert ours == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue, abs=0.02)


@pytest.mark.parametrize("prompts", [6, 8, 12])
def test_p_values_of_few_prompts_are_as_careful_as_students(prompts):
    rng = np.random.default_rng(prompts)
    alarms = 0
    for trial in range(400):
        a = rng.normal(size=prompts)
        result = paired_difference(a, np.zeros(prompts), np.arange(prompts), resamples=500, seed=trial)
        alarms += result.p_value < 0.05
    assert alarms / 400 < 0.08


def test_a_model_compared_with_itself_ties_everywhere():
    values = np.random.default_rng(8).normal(size=20)
    result = paired_difference(values, values, np.arange(20))
    assert result.interval.mean == 0
    assert result.p_value == 1
    assert result.win_rate.mean == 0.5
    assert result.tie_rate == 1


def test_ties_count_half_in_the_win_rate():
    assert win_rate([1, 0, 1, 1], [0, 1, 1, 0], [0, 1, 2, 3]).mean == pytest.approx((1 + 0 + 0.5 + 1) / 4)


def test_win_rate_of_400_coin_flips_has_the_known_half_width():
    outcomes = np.tile([1.0, 0.0], 200)
    interval = win_rate(outcomes, 1 - outcomes, np.arange(400))
    assert (interval.high - interval.low) / 2 == pytest.approx(0.049, abs=0.003)


def test_holm_matches_a_worked_example():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_number_of_prompts_gives_the_power_it_promises():
    n = prompts_needed(0.5, 1.0)
    assert n == 32
    rng = np.random.default_rng(9)
    found = np.mean([scipy.stats.ttest_1samp(rng.normal(0.5, 1, n), 0).pvalue < 0.05 for _ in range(400)])
    assert found == pytest.approx(0.8, abs=0.06)


def test_no_values_are_an_error():
    with pytest.raises(ValueError, match="No values"):
        cluster_bootstrap([], [])


@pytest.mark.parametrize("count", [5, 20, 64, 400])
def test_the_upper_limit_of_a_deviation_is_that_of_the_chi_squared_distribution(count):
    exact = 0.3 * np.sqrt((count - 1) / scipy.stats.chi2.ppf(0.2, count - 1))
    assert upper_limit_of_deviation(0.3, count) == pytest.approx(exact, rel=5e-3)
    assert prompts_needed(0.05, 0.3, measured_on=count) >= prompts_needed(0.05, 0.3)


def test_the_detectable_difference_is_the_one_that_the_prompts_are_needed_for():
    for prompts in (10, 100, 1000):
        assert prompts_needed(detectable_difference(prompts, 0.2), 0.2) in (prompts, prompts + 1)


def test_the_deviation_is_of_the_prompts_mean_differences():
    a, b = np.array([1.0, 2.0, 4.0, 8.0, 9.0]), np.array([0.0, 0.0, 1.0, 2.0, 3.0])
    prompts = ["p", "p", "q", "r", "r"]
    assert deviation_of_differences(a, b, prompts) == pytest.approx(np.std([1.5, 3.0, 6.0], ddof=1))
    assert np.isnan(deviation_of_differences(a[:2], b[:2], prompts[:2]))
