"""Which pairs are picked, and what they are said to bring."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from generator.output import InputError
from labeling_app.selection.disagreement import pair_information, select_pairs
from labeling_app.selection.last_layer import LastLayerPosterior, label_information, select_by_last_layer


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


def test_information_of_a_gaussian_logit_is_that_of_many_models_drawn_from_it() -> None:
    random = np.random.default_rng(0)
    for mean, variance in ((0.0, 1.0), (1.5, 0.3), (-2.0, 4.0), (0.0, 0.0)):
        logits = mean + np.sqrt(variance) * random.standard_normal(400_000)
        p = 1 / (1 + np.exp(-logits))
        expected = entropy(p.mean()) - float(np.mean(-p * np.log2(p) - (1 - p) * np.log2(1 - p)))
        found = float(label_information(np.array([mean]), np.array([variance]))[0])
        assert found == pytest.approx(expected, abs=2e-3)


def test_the_posterior_after_each_label_is_that_of_the_hessian_of_all_labels() -> None:
    random = np.random.default_rng(1)
    inputs, mean = random.standard_normal((30, 5)), random.standard_normal(30)
    known, logits = random.standard_normal((8, 5)), random.standard_normal(8)
    posterior = LastLayerPosterior(mean, inputs, (known, logits))
    for pair in (3, 17, 3):
        posterior.observe(pair)
    hessian = np.eye(5) * (inputs**2).sum(axis=1).mean()
    for x, f in [*zip(known, logits), *((inputs[n], mean[n]) for n in (3, 17, 3))]:
        p = 1 / (1 + np.exp(-f))
        hessian += p * (1 - p) * np.outer(x, x)
    covariance = np.linalg.inv(hessian)
    assert np.allclose(posterior.covariance, covariance)
    assert np.allclose(posterior.variance, [x @ covariance @ x for x in inputs])


def test_pairs_that_would_tell_the_same_are_not_picked_together() -> None:
    # Three prompts whose pairs all ask about the first number, and one about the second, a little less.
    inputs = [np.array([[1.0, 0.0], [0.0, 0.0]])] * 3 + [np.array([[0.0, 0.95], [0.0, 0.0]])]
    picked = select_by_last_layer([np.zeros(2)] * 4, inputs, 2, random_share=0.0)
    assert [pair.prompt for pair in picked.pairs] == [0, 3]
    assert picked.expected_bits > picked.random_bits - 1e-12
    taken = frozenset({(0, 0, 1), (1, 0, 1), (2, 0, 1)})
    assert select_by_last_layer([np.zeros(2)] * 4, inputs, 1, 0.0, taken=taken).pairs[0].prompt == 3
    with pytest.raises(InputError, match="1 are left"):
        select_by_last_layer([np.zeros(2)] * 4, inputs, 2, 0.0, taken=taken)


def test_a_share_of_what_the_last_layer_picks_is_random() -> None:
    random = np.random.default_rng(2)
    scores = [random.standard_normal(4) for _ in range(12)]
    inputs = [random.standard_normal((4, 6)) for _ in range(12)]
    picked = select_by_last_layer(scores, inputs, 20, random_share=0.25, seed=3)
    assert sum(pair.random for pair in picked.pairs) == 5
    assert len({(p.prompt, p.first, p.second) for p in picked.pairs}) == 20
    assert all(p.first < p.second for p in picked.pairs)
