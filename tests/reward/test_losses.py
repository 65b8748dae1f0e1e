import itertools
import math

import choix
import numpy as np
import pytest
import torch

from reward.losses import (
    LOSSES,
    ORDER_ONLY,
    bradley_terry,
    davidson,
    gaussian_bradley_terry,
    informative,
    masked_dimensions,
    plackett_luce,
    rao_kupper,
    scaled_by_annotator,
    soft_bradley_terry,
)


def scores(batch: int, size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(batch, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_bradley_terry_is_choix_likelihood_of_the_pairs():
    values = scores(1, 4)
    ranks = torch.tensor([[2, 0, 3, 1]])
    pairs = [(i, j) for i, j in itertools.permutations(range(4), 2) if ranks[0, i] < ranks[0, j]]
    expected = -choix.utils.log_likelihood_pairwise(pairs, values[0].numpy()) / len(pairs)
    assert bradley_terry(values, ranks).item() == pytest.approx(expected, rel=1e-12)


def test_plackett_luce_is_choix_likelihood_of_the_ranking():
    values = scores(3, 5)
    ranks = torch.tensor([[2, 0, 3, 1, 4], [0, 1, 2, 3, 4], [9, 7, 5, 3, 1]])
    for row in range(3):
        order = torch.argsort(ranks[row]).tolist()
        expected = -choix.utils.log_likelihood_rankings([order], values[row].numpy())
        assert plackett_luce(values, ranks)[row].item() == pytest.approx(expected, rel=1e-12)


def test_plackett_luce_probabilities_of_all_permutations_sum_to_one():
    values = scores(1, 4).expand(24, 4)
    ranks = torch.tensor(list(itertools.permutations(range(4))))
    assert plackett_luce(values, ranks).neg().exp().sum().item() == pytest.approx(1, abs=1e-12)


def test_plackett_luce_of_two_is_bradley_terry():
    values, ranks = scores(6, 2), torch.tensor([[0, 1], [1, 0]] * 3)
    torch.testing.assert_close(plackett_luce(values, ranks), bradley_terry(values, ranks))


def bucket_likelihood(values: list[float], ranks: list[int], efron: bool) -> float:
    """Cox's partial likelihood with ties, written out as in a textbook."""
    total = 0.0
    for level in sorted({rank for rank in ranks if rank >= 0}):
        group = [v for v, r in zip(values, ranks) if r == level]
        rest = [v for v, r in zip(values, ranks) if r >= level]
        for draw in range(len(group)):
            share = draw / len(group) if efron else 0.0
            total += group[draw] - math.log(
                sum(math.exp(v) for v in rest) - share * sum(math.exp(v) for v in group)
            )
    return -total


@pytest.mark.parametrize("ties", ["efron", "breslow"])
@pytest.mark.parametrize("ranks", [[0, 1, 1, 2, 2], [1, 1, 1, 1, 1], [0, 0, 5, -1, 5], [3, -1, 1, -1, 3]])
def test_tied_groups_follow_the_bucket_formulas(ties, ranks):
    values = scores(1, 5)
    expected = bucket_likelihood(values[0].tolist(), ranks, ties == "efron")
    assert plackett_luce(values, torch.tensor([ranks]), ties=ties).item() == pytest.approx(
        expected, rel=1e-12
    )


def test_efron_is_the_mean_over_all_orders_of_a_group_with_equal_scores():
    values = torch.tensor([[0.7, -0.3, -0.3, -0.3, 1.1]], dtype=torch.float64)
    orders = [[0, *order, 4] for order in itertools.permutations([1, 2, 3])]
    strict = [plackett_luce(values, torch.tensor([order])).neg().exp().item() for order in orders]
    efron = plackett_luce(values, torch.tensor([[0, 1, 1, 1, 4]])).neg().exp().item()
    assert efron == pytest.approx(np.mean(strict), rel=1e-12)


@pytest.mark.parametrize(("loss", "parameters"), [(rao_kupper, {"theta": 3.0}), (davidson, {"nu": 0.7})])
def test_win_loss_and_tie_probabilities_sum_to_one(loss, parameters):
    values = torch.linspace(-8, 8, 33, dtype=torch.float64)
    pair = torch.stack([values, torch.zeros_like(values)], dim=1)
    outcomes = torch.tensor([[0, 1], [1, 0], [0, 0]])
    total = sum(loss(pair, o.expand(33, 2), **parameters).neg().exp() for o in outcomes)
    torch.testing.assert_close(total, torch.ones_like(values))


def test_rao_kupper_matches_its_definition_by_odds():
    a, b, theta = 1.3, -0.4, 5.0
    pa, pb = math.exp(a), math.exp(b)
    pair = torch.tensor([[a, b]], dtype=torch.float64)
    win = rao_kupper(pair, torch.tensor([[0, 1]]), theta=theta).neg().exp().item()
    tie = rao_kupper(pair, torch.tensor([[0, 0]]), theta=theta).neg().exp().item()
    assert win == pytest.approx(pa / (pa + theta * pb), rel=1e-12)
    assert tie == pytest.approx((theta**2 - 1) * pa * pb / ((pa + theta * pb) * (theta * pa + pb)), rel=1e-12)


def test_davidson_matches_its_definition_by_odds():
    a, b, nu = 1.3, -0.4, 0.6
    pa, pb = math.exp(a), math.exp(b)
    pair = torch.tensor([[a, b]], dtype=torch.float64)
    norm = pa + pb + nu * math.sqrt(pa * pb)
    assert davidson(pair, torch.tensor([[0, 1]]), nu=nu).neg().exp().item() == pytest.approx(pa / norm)
    assert davidson(pair, torch.tensor([[2, 2]]), nu=nu).neg().exp().item() == pytest.approx(
        nu * math.sqrt(pa * pb) / norm
    )


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_match_finite_differences(name):
    ranks = torch.tensor([[0, 1, 1, 3], [2, -1, 0, 2], [0, 0, 0, 0]])
    values = scores(3, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](s, ranks), (values,))


@pytest.mark.parametrize(("loss", "name", "start"), [(rao_kupper, "theta", 2.5), (davidson, "nu", 0.8)])
def test_tie_parameters_have_correct_gradients(loss, name, start):
    ranks, values = torch.tensor([[0, 1, 1, 3]]), scores(1, 4)
    parameter = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda p: loss(values, ranks, **{name: p}), (parameter,))


@pytest.mark.parametrize("name", LOSSES)
def test_missing_videos_do_not_matter(name):
    values, ranks = scores(1, 5), torch.tensor([[1, -1, 0, 2, -1]])
    torch.testing.assert_close(
        LOSSES[name](values, ranks), LOSSES[name](values[:, [0, 2, 3]], torch.tensor([[1, 0, 2]]))
    )
    moved = values.clone()
    moved[0, [1, 4]] = 1e4
    torch.testing.assert_close(LOSSES[name](moved, ranks), LOSSES[name](values, ranks))


@pytest.mark.parametrize("name", LOSSES)
def test_losses_stay_finite_for_huge_scores(name):
    values = torch.tensor([[1e4, -1e4, 0.0, 0.0]], requires_grad=True)
    loss = LOSSES[name](values, torch.tensor([[3, 0, 1, 1]])).sum()
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(values.grad).all()


@pytest.mark.parametrize("name", LOSSES)
def test_a_ranking_without_judgements_has_no_loss_and_no_gradient(name):
    values = scores(1, 3).requires_grad_()
    loss = LOSSES[name](values, torch.full((1, 3), -1)).sum()
    loss.backward()
    assert loss.item() == 0
    assert values.grad.abs().sum() == 0


def test_half_wins_pull_tied_scores_together_and_ignored_ties_do_nothing():
    values, tie = torch.tensor([[2.0, 0.0]], requires_grad=True), torch.tensor([[0, 0]])
    gradient = torch.autograd.grad(bradley_terry(values, tie, ties="half").sum(), values)[0]
    assert gradient[0, 0] > 0 > gradient[0, 1]
    assert bradley_terry(values, tie).item() == 0


def test_gaussian_bradley_terry_is_the_expectation_over_gaussian_scores():
    mean, variance = torch.tensor([[0.9, -0.2]], dtype=torch.float64), torch.tensor([[0.6, 0.3]])
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    difference = 1.1 + math.sqrt(0.9) * nodes
    expected = (weights / (1 + np.exp(-difference))).sum() / weights.sum()
    found = gaussian_bradley_terry(mean, torch.tensor([[0, 1]]), variance.log()).neg().exp().item()
    assert found == pytest.approx(1 / (1 + math.exp(-1.1 / math.sqrt(1 + math.pi * 0.9 / 8))), rel=1e-6)
    assert found == pytest.approx(expected, abs=5e-3)


def test_certain_gaussian_scores_are_bradley_terry():
    values, ranks = scores(2, 4), torch.tensor([[0, 1, 1, 3], [2, -1, 0, 2]])
    torch.testing.assert_close(gaussian_bradley_terry(values, ranks, -80.0), bradley_terry(values, ranks))


def test_the_variance_of_gaussian_scores_has_a_correct_gradient():
    values, ranks = scores(1, 4), torch.tensor([[0, 1, 1, 3]])
    variance = scores(1, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: gaussian_bradley_terry(values, ranks, v), (variance,))


def test_soft_labels_are_the_mean_over_the_single_votes():
    values, votes = scores(1, 2), torch.tensor([[7.0, 3.0]])
    for_first = bradley_terry(values, torch.tensor([[0, 1]]))
    for_second = bradley_terry(values, torch.tensor([[1, 0]]))
    expected = 0.7 * for_first + 0.3 * for_second
    torch.testing.assert_close(soft_bradley_terry(values, torch.tensor([[0, 1]]), votes), expected)


def test_soft_labels_without_votes_are_the_ranks_with_ties_as_halves():
    values, ranks = scores(2, 4), torch.tensor([[0, 1, 1, 3], [2, -1, 0, 2]])
    expected = bradley_terry(values, ranks, ties="half")
    torch.testing.assert_close(soft_bradley_terry(values, ranks), expected)
    unknown = torch.full((2, 4), float("nan"))
    torch.testing.assert_close(soft_bradley_terry(values, ranks, unknown), expected)


def test_soft_labels_are_best_where_the_odds_are_those_of_the_votes():
    values = torch.tensor([[math.log(7 / 3), 0.0]], dtype=torch.float64, requires_grad=True)
    loss = soft_bradley_terry(values, torch.tensor([[0, 1]]), torch.tensor([[0.7, 0.3]], dtype=torch.float64))
    assert torch.autograd.grad(loss.sum(), values)[0].abs().max() < 1e-12


def test_each_dimension_is_divided_by_its_own_labels():
    losses = torch.tensor([[1.0, 10.0, 5.0], [3.0, float("nan"), 5.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_dimensions(losses, mask).item() == pytest.approx((2 + 10) / 2)
    assert masked_dimensions(losses, mask, torch.tensor([1.0, 3.0, 9.0])).item() == pytest.approx(32 / 4)
    assert masked_dimensions(losses, torch.zeros_like(mask)).item() == 0


@pytest.mark.parametrize("name", LOSSES)
def test_rankings_that_say_nothing_have_no_gradient(name):
    ranks = torch.tensor([[2, -1, -1], [1, 1, 1], [0, 1, -1]])
    values = scores(3, 3).requires_grad_()
    gradient = torch.autograd.grad(LOSSES[name](values, ranks).sum(), values)[0].abs().sum(1) > 0
    assert (gradient <= informative(ranks, name)).all()
    assert informative(ranks, name).tolist() == [False, name not in ORDER_ONLY, True]


def test_an_annotator_with_twice_the_noise_is_seen_as_half_as_reliable():
    """Maximum likelihood of jointly learned reliabilities finds the ratio of the noises."""
    random = torch.Generator().manual_seed(0)
    truth, noise = torch.randn(4000, 2, generator=random, dtype=torch.float64), torch.tensor([1.0, 2.0])
    annotator = torch.arange(4000) % 2
    first = torch.sigmoid((truth[:, 0] - truth[:, 1]) * 2 / noise[annotator])
    ranks = (torch.rand(4000, generator=random) > first).long()
    ranks = torch.stack([ranks, 1 - ranks], dim=1)
    log_reliability = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    scale = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_reliability, scale], max_iter=50)

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = bradley_terry(
            scaled_by_annotator(truth * scale.exp(), log_reliability, annotator), ranks
        ).mean()
        value.backward()
        return value

    optimizer.step(loss)
    assert (log_reliability[0] - log_reliability[1]).exp().item() == pytest.approx(2, rel=0.1)
    assert scale.exp().item() == pytest.approx(2 / math.sqrt(2), rel=0.1)


def pair_weights(size: int, zero: tuple[int, int] = (0, 2)) -> torch.Tensor:
    """Random symmetric weights `[1, size, size]`, one pair of which weighs nothing."""
    drawn = torch.rand(1, size, size, generator=torch.Generator().manual_seed(5), dtype=torch.float64) * 3
    weights = drawn + drawn.transpose(1, 2)
    weights[:, zero[0], zero[1]] = weights[:, zero[1], zero[0]] = 0
    return weights


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "plackett_luce"])
@pytest.mark.parametrize("ranks", [[0, 1, 1, 3], [2, -1, 0, 5]])
def test_a_weight_multiplies_the_loss_of_its_pair(name, ranks):
    values, weights = scores(1, 4), pair_weights(4)
    pairs = [
        (i, j)
        for i, j in itertools.combinations(range(4), 2)
        if min(ranks[i], ranks[j]) >= 0 and not (name in ORDER_ONLY and ranks[i] == ranks[j])
    ]
    alone = [
        weights[0, i, j] * LOSSES[name](values[:, [i, j]], torch.tensor([[ranks[i], ranks[j]]]))
        for i, j in pairs
    ]
    found = LOSSES[name](values, torch.tensor([ranks]), weights=weights)
    torch.testing.assert_close(found, sum(alone) / len(pairs))


@pytest.mark.parametrize("ranks", [[2, 0, 3, 1], [0, 1, 1, 3], [2, -1, 0, 5], [1, 1, 1, 1]])
def test_a_draw_of_plackett_luce_weighs_the_mean_of_its_pairs_and_skips_those_of_weight_0(ranks):
    values, weights = scores(1, 4)[0].tolist(), pair_weights(4)
    expected = 0.0
    for i, rank in enumerate(ranks):
        others = [j for j in range(4) if j != i and rank >= 0 and ranks[j] >= rank]
        if not others:
            continue
        met = [j for j in others if weights[0, i, j] > 0]
        tied = [j for j in met if ranks[j] == rank]
        share = sum(j < i for j in tied) / (len(tied) + 1)
        rest = sum(math.exp(values[j]) * (1 - share * (j in tied)) for j in met)
        own = math.exp(values[i]) * (1 - share)
        weight = sum(float(weights[0, i, j]) for j in others) / len(others)
        expected += weight * (math.log(rest + own) - values[i])
    found = plackett_luce(torch.tensor([values], dtype=torch.float64), torch.tensor([ranks]), weights=weights)
    assert found.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", LOSSES)
def test_weights_of_1_change_nothing_and_a_video_of_weight_0_teaches_nothing(name):
    values, ranks = scores(2, 4).requires_grad_(), torch.tensor([[0, 1, 2, 3], [2, 0, 0, 5]])
    ones = torch.ones(2, 4, 4)
    torch.testing.assert_close(LOSSES[name](values, ranks, weights=ones), LOSSES[name](values, ranks))
    ones[:, 3, :] = ones[:, :, 3] = 0
    loss = LOSSES[name](values, ranks, weights=ones).sum()
    gradient = torch.autograd.grad(loss, values)[0]
    assert (gradient[:, 3] == 0).all()
    assert (gradient[:, 0].abs() > 0).all()
