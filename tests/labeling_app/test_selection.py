"""Which pairs are picked, and what they are said to bring."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from generator.output import InputError
from labeling_app.selection import pair_information, select_pairs


def entropy(p: float) -> float:
    return float(-p * np.log2(p) - (1 - p) * np.log2(1 - p))


def test_information_is_the_mutual_information_of_label_and_model() -> None:
    scores = np.array([[0.0, 1.0, -2.0], [0.5, -1.0, 0.0], [1.0, 0.0, 3.0]])
    information = pair_information(scores, temperature=0.7)
    for i in range(3):
        for j in range(3):
            p = [1 / (1 + np.exp(-(s[i] - s[j]) / 0.7)) for s in scores]
            # I(label; member) from the joint distribution, with members equally probable.
            joint = np.array([[q / 3, (1 - q) / 3] for q in p])
            independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
            expected = 0.0 if i == j else float((joint * np.log2(joint / independent)).sum())
            assert information[i, j] == pytest.approx(expected, abs=1e-9)


def test_one_model_counts_the_entropy_of_the_label() -> None:
    information = pair_information(np.array([[0.0, 1.0]]))
    assert information[0, 1] == information[1, 0] == pytest.approx(entropy(1 / (1 + np.e)))


def test_models_that_agree_leave_nothing_to_learn() -> None:
    assert pair_information(np.array([[0.0, 1.0, 2.0]] * 4)).max() == pytest.approx(0.0, abs=1e-9)


def test_the_most_informative_pair_of_each_prompt_comes_first_and_a_share_is_random() -> None:
    random = np.random.default_rng(0)
    scores = [random.standard_normal((5, 4)) * (0.1 + number % 7) for number in range(40)]
    picked = select_pairs(scores, 30, random_share=0.2, seed=1)
    informative = [pair for pair in picked.pairs if not pair.random]
    assert (len(informative), len(picked.pairs)) == (24, 30)
    assert len({(p.prompt, p.first, p.second) for p in picked.pairs}) == 30
    assert max(Counter(pair.prompt for pair in informative).values()) == 1
    assert [p.bits for p in informative] == sorted((p.bits for p in informative), reverse=True)
    assert picked.expected_bits == pytest.approx(sum(pair.bits for pair in picked.pairs))
    assert picked.worth_in_random_pairs > 40
    every = [pair_information(s)[np.triu_indices(4, 1)].mean() for s in scores]
    assert picked.random_bits == pytest.approx(30 * np.mean(every))


def test_labelled_pairs_are_not_picked_again_and_too_many_are_refused() -> None:
    scores = [np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]])]
    picked = select_pairs(scores, 1, 0.0, taken=frozenset({(0, 0, 2)}))
    assert (picked.pairs[0].first, picked.pairs[0].second) in {(0, 1), (1, 2)}
    with pytest.raises(InputError, match="2 are left"):
        select_pairs(scores, 3, taken=frozenset({(0, 0, 2)}))
    with pytest.raises(InputError, match="random_share"):
        select_pairs(scores, 1, 1.5)
