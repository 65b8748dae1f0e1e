"""Agreement, against the `krippendorff` package and counts by hand."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import krippendorff
import numpy as np
import pytest

from labeling_app.files.candidates import import_tasks
from labeling_app.quality.agreement import (
    _alpha_with_interval,
    _label_comparisons,
    agreement,
    krippendorff_alpha,
    pair_labels,
)
from labeling_app.store.store import Store
from labeling_app.tasks import next_task as assignment
from labeling_app.tasks.answers import submit


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
@pytest.mark.parametrize("seed", range(5))
def test_alpha_agrees_with_the_krippendorff_package(
    level: Literal["nominal", "ordinal", "interval"], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    truth = generator.integers(-1, 2, size=40)
    values = np.where(generator.random((5, 40)) < 0.6, truth, generator.integers(-1, 2, size=(5, 40))).astype(
        float
    )
    values[generator.random((5, 40)) < 0.4] = np.nan
    expected = krippendorff.alpha(reliability_data=values, level_of_measurement=level)
    assert krippendorff_alpha(values, level) == pytest.approx(expected, abs=1e-12)


def test_alpha_of_krippendorffs_own_example() -> None:
    """Computing Krippendorff's Alpha-Reliability (2011), example C: nominal 0.743, ordinal 0.815, interval "
    "0.849."""
    gap = np.nan
    values = np.array(
        [
            [1, 2, 3, 3, 2, 1, 4, 1, 2, gap, gap, gap],
            [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, gap, 3],
            [gap, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, gap],
            [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, gap],
        ]
    )
    assert krippendorff_alpha(values, "nominal") == pytest.approx(0.743, abs=5e-4)
    assert krippendorff_alpha(values, "ordinal") == pytest.approx(0.815, abs=5e-4)
    assert krippendorff_alpha(values, "interval") == pytest.approx(0.849, abs=5e-4)


def test_labels_of_pairs() -> None:
    assert pair_labels([1, 2, 2]) == [1, 1, 0]
    assert pair_labels([3, 1, 2]) == [-1, -1, 1]


@pytest.fixture
def store(sqlite_file: Path) -> Iterator[Store]:
    with Store(sqlite_file) as opened:
        yield opened


def judge_all(store: Store, name: str, ranks: list[int] | None, seconds: float = 1.0) -> None:
    """Gives every task these ranks in the task's order; at random if None."""
    user = store.add_user(name)
    drawn = random.Random(name)
    while (task := assignment.next_task(store, user)) is not None:
        in_order = ranks or drawn.sample(range(1, 5), 4)
        shown = [in_order[position] for position in task.permutation]
        submit(store, user, task.assignment, {"overall": shown}, seconds)


def test_annotators_who_agree_have_alpha_one_whatever_the_order_of_the_videos(filled: Store) -> None:
    judge_all(filled, "ada", [1, 2, 3, 4], seconds=3.0)
    judge_all(filled, "bob", [1, 2, 3, 4], seconds=5.0)
    found = agreement(filled, "main")
    assert (found.alpha, found.alpha_low, found.alpha_high) == (1.0, 1.0, 1.0)
    assert (found.pairwise, found.tie_rate) == (1.0, 0.0)
    assert (found.num_tasks, found.num_judgements, found.num_labels) == (12, 24, 144)
    assert [(person.name, person.median_seconds) for person in found.annotators] == [
        ("ada", 3.0),
        ("bob", 5.0),
    ]


def test_opposite_annotators_have_a_negative_alpha_and_no_agreement(filled: Store) -> None:
    judge_all(filled, "ada", [1, 2, 3, 4])
    judge_all(filled, "bob", [4, 3, 2, 1])
    found = agreement(filled, "main")
    assert found.alpha < -0.9
    assert found.pairwise == 0.0


def test_ties_are_counted_by_hand(filled: Store) -> None:
    judge_all(filled, "ada", [1, 1, 2, 3])
    judge_all(filled, "bob", [1, 2, 2, 3])
    found = agreement(filled, "main")
    # Ada: 0 + + + + +, Bob: + + + 0 + +: one tie in six labels each, four of six the same.
    assert found.tie_rate == pytest.approx(1 / 6)
    assert found.pairwise == pytest.approx(4 / 6)
    assert found.pairwise_without_ties == 1.0
    assert found.annotators[0].tie_rate == pytest.approx(1 / 6)


def test_random_annotators_have_alpha_near_zero_within_its_interval(store: Store, candidates: Path) -> None:
    import_tasks(store, candidates, campaign="main", overlap=4)
    for number in range(4):
        judge_all(store, f"random-{number}", None)
    found = agreement(store, "main")
    assert abs(found.alpha) < 0.15
    assert found.alpha_low < 0.05 < found.alpha_high + 0.15
    assert found.alpha_low < found.alpha < found.alpha_high


def test_one_annotator_alone_has_no_agreement(filled: Store) -> None:
    judge_all(filled, "ada", [1, 2, 3, 4])
    found = agreement(filled, "main")
    assert np.isnan(found.alpha)
    assert np.isnan(found.pairwise)
    assert found.num_judgements == 12


def test_the_interval_is_that_of_tasks_drawn_and_counted_again_one_by_one() -> None:
    drawn = np.random.default_rng(5)
    tasks = np.repeat(np.arange(30), 6)
    truth = drawn.integers(-1, 2, size=180)
    values = np.where(drawn.random((4, 180)) < 0.6, truth, drawn.integers(-1, 2, size=(4, 180))).astype(float)
    values[drawn.random(values.shape) < 0.3] = np.nan
    alpha, low, high = _alpha_with_interval(values, tasks, 100, seed=3)
    both = np.concatenate([values, -values], axis=1)
    compared = np.unique(tasks[(~np.isnan(values)).sum(axis=0) >= 2])
    resampling, samples = np.random.default_rng(3), []
    for _ in range(100):
        units = [
            np.flatnonzero(np.tile(tasks, 2) == compared[task])
            for task in resampling.integers(len(compared), size=len(compared))
        ]
        samples.append(krippendorff_alpha(both[:, np.concatenate(units)], "ordinal"))
    assert alpha == pytest.approx(krippendorff_alpha(both, "ordinal"), abs=1e-12)
    assert (low, high) == pytest.approx(tuple(np.percentile(samples, [2.5, 97.5])), abs=1e-12)


def test_comparisons_of_two_annotators_are_counted_label_by_label() -> None:
    drawn = np.random.default_rng(2)
    values = drawn.integers(-1, 2, size=(5, 60)).astype(float)
    values[drawn.random(values.shape) < 0.4] = np.nan
    expected = np.zeros((4, 5, 5))
    for a, b in ((a, b) for a in range(5) for b in range(5) if a != b):
        for x, y in zip(values[a], values[b], strict=True):
            if not np.isnan(x) and not np.isnan(y):
                expected[:, a, b] += (x == y, 1, x == y and x * y != 0, x * y != 0)
    for found, wanted in zip(_label_comparisons(values), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
