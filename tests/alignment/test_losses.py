"""Losses, advantages and step weights against independent computations."""

import math

import numpy as np
import pytest
import torch

from alignment.losses import (
    best_and_worst,
    clipped_ratio_loss,
    divergence_masked_loss,
    dpo_loss,
    flow_matching_error,
    normalised_log_ratio,
    preference_loss,
    preference_statistics,
    step_weights,
)
from alignment.rollouts.advantages import group_relative_advantages, mean_and_std, share_without_spread
from generator import flow
from generator.sampling import SdeSettings


def errors(seed=0):
    return torch.rand(4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) / 100


def test_flow_matching_error_is_the_mean_square_of_velocity_minus_noise_plus_data():
    v, x0, noise = torch.randn(3, 2, 4, 1, 2, 2).unbind(0)
    expected = ((v - (noise - x0)) ** 2).numpy().reshape(2, -1).mean(1)
    assert np.allclose(flow_matching_error(v, x0, noise).numpy(), expected, atol=1e-6)


def test_dpo_loss_equals_the_formula_in_numpy():
    chosen, rejected, chosen_ref, rejected_ref = errors().numpy()
    inside = -300 / 2 * ((chosen - chosen_ref) - (rejected - rejected_ref))
    terms = dpo_loss(*errors(), beta=300)
    assert np.allclose(terms.loss.numpy(), np.log1p(np.exp(-inside)))
    assert np.allclose((terms.chosen_rewards - terms.rejected_rewards).numpy(), inside)


def test_dpo_is_log_two_at_the_reference_and_its_gradient_lowers_the_chosen_error():
    chosen, rejected = (torch.full((3,), 0.5, requires_grad=True) for _ in range(2))
    loss = dpo_loss(chosen, rejected, chosen.detach(), rejected.detach(), beta=1000).loss.mean()
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2))
    assert (chosen.grad > 0).all()
    assert torch.allclose(chosen.grad, -rejected.grad)


def test_label_smoothing_mixes_both_directions():
    straight, swapped = errors(), errors()[[1, 0, 3, 2]]
    smooth = dpo_loss(*straight, beta=300, label_smoothing=0.2).loss
    mixed = 0.8 * dpo_loss(*straight, beta=300).loss + 0.2 * dpo_loss(*swapped, beta=300).loss
    assert torch.allclose(smooth, mixed)


def test_ipo_is_zero_where_the_margin_is_one_half():
    reference = torch.zeros(1)
    terms = dpo_loss(torch.tensor([-0.25]), torch.tensor([0.25]), reference, reference, 2.0, "ipo")
    assert (terms.chosen_rewards - terms.rejected_rewards).item() == pytest.approx(0.5)
    assert terms.loss.item() == pytest.approx(0)


def test_clipped_ratio_stops_gradients_outside_the_range_only_in_the_rewarded_direction():
    old = torch.zeros(4)
    log_probs = torch.tensor([0.3, 0.3, -0.3, -0.3], requires_grad=True)
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss, ratio = clipped_ratio_loss(log_probs, old, advantages, 0.2)
    loss.sum().backward()
    assert torch.allclose(ratio, torch.exp(log_probs))
    assert (log_probs.grad != 0).tolist() == [False, True, True, False]
    assert loss[0].item() == pytest.approx(-1.2)


def test_the_normalised_log_ratio_is_the_noise_times_the_change_of_the_mean():
    """With x′ = μ_old + s ε the log-ratio of `torch.distributions` becomes mean(ε · (μ − μ_old)), whatever s."""
    random = torch.Generator().manual_seed(0)
    old_mean, change, noise = torch.randn(3, 5, 2, 3, 4, 4, generator=random, dtype=torch.float64).unbind(0)
    for std in (0.05, 0.4, 2.0):
        mean, sample = old_mean + 0.1 * change, old_mean + std * noise
        new, old = (
            torch.distributions.Normal(each, std).log_prob(sample).flatten(1).mean(1)
            for each in (mean, old_mean)
        )
        found = normalised_log_ratio(new - old, mean, old_mean, torch.tensor(std, dtype=torch.float64))
        assert torch.allclose(found, (noise * 0.1 * change).flatten(1).mean(1))
        assert (found - (new - old) * std).abs().min() > 0


def test_advantages_are_standard_scores_of_each_group():
    rewards = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    found = group_relative_advantages(rewards)
    array = rewards.numpy()
    expected = (array - array.mean(1, keepdims=True)) / (array.std(1, keepdims=True) + 1e-4)
    assert np.allclose(found.numpy(), expected, atol=1e-5)


def test_global_scale_divides_by_the_std_of_all_rewards():
    rewards = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    _, std = mean_and_std(rewards, lambda value: value)
    array = rewards.numpy()
    assert std.item() == pytest.approx(array.std(), rel=1e-5)
    found = group_relative_advantages(rewards, "global", global_std=std)
    assert np.allclose(
        found.numpy(), (array - array.mean(1, keepdims=True)) / (array.std() + 1e-4), atol=1e-5
    )
    centred = group_relative_advantages(rewards, "none")
    assert np.allclose(centred.numpy(), array - array.mean(1, keepdims=True), atol=1e-6)


def test_a_group_with_reward_noise_of_1e_5_does_not_become_full_size_advantages():
    noise = 1e-5 * torch.randn(1, 8, generator=torch.Generator().manual_seed(0))
    assert group_relative_advantages(0.7 + noise).abs().max() < 0.3
    assert group_relative_advantages(0.7 + 1e4 * noise).abs().max() > 1.5
    assert share_without_spread(0.7 + noise) == 1
    assert group_relative_advantages(torch.full((2, 8), 0.7)).abs().max() == 0


def test_advantages_are_clipped_at_five():
    rewards = torch.zeros(1, 100)
    rewards[0, 0] = 1
    assert group_relative_advantages(rewards).max() == 5


def test_balanced_step_weights_undo_the_small_gradient_of_early_steps():
    sigmas = flow.sigma_schedule(10, 5.0)
    settings = SdeSettings("flow_sde", 0.7, 0, 9)
    weights = step_weights(sigmas, settings, "balanced")
    gradients = []
    for step in range(9):
        v = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
        x = torch.ones(1, 4, dtype=torch.float64)
        mean, std = flow.flow_sde_step(x, v, sigmas[step], sigmas[step + 1], 0.7, sigmas[1])
        flow.gaussian_log_prob(mean.detach() + std, mean, std).sum().backward()
        gradients.append(v.grad.norm().item())
    assert gradients[0] < 0.15 * gradients[-1]
    weighted = np.array(gradients) * weights.numpy()
    assert np.allclose(weighted, weighted[0], rtol=1e-3)
    assert weights.mean().item() == pytest.approx(1)
    assert step_weights(sigmas, settings, "none").tolist() == [1] * 9
    inverse = step_weights(sigmas, settings, "inverse_std")
    assert inverse[0] < inverse[-1]


def test_balanced_step_weights_are_those_of_flash_grpo():
    """λ = 1 / (√Δt / η + η √Δt (1 − σ) / 2σ), written out; η of the paper's `flow_sde` is the kernel's own."""
    sigmas = flow.sigma_schedule(8, 3.0).double()
    level = 0.7
    lambdas = []
    for step in range(1, 7):
        sigma, dt = sigmas[step].item(), (sigmas[step] - sigmas[step + 1]).item()
        eta = level * math.sqrt(sigma / (1 - sigma))
        lambdas.append(1 / (math.sqrt(dt) / eta + eta * math.sqrt(dt) * (1 - sigma) / (2 * sigma)))
    found = step_weights(sigmas, SdeSettings("flow_sde", level, 1, 6), "balanced")
    assert found.tolist() == pytest.approx((np.array(lambdas) / np.mean(lambdas)).tolist(), rel=1e-5)


@pytest.mark.parametrize("log_ratio", [-0.3, 0.0, 0.3])
@pytest.mark.parametrize("advantage", [-2.0, 0.0, 2.0])
@pytest.mark.parametrize("divergence", [0.0, 0.9, 1.0, 5.0])
def test_a_step_is_masked_only_where_it_is_far_and_would_go_further(log_ratio, advantage, divergence):
    given = torch.tensor([log_ratio], dtype=torch.float64, requires_grad=True)
    values = torch.tensor([advantage]), torch.tensor([divergence])
    loss, ratio, masked = divergence_masked_loss(given, *values, 1.0)
    grows = advantage * log_ratio > 0  # the update makes |log ρ| larger
    assert masked.item() == (grows and divergence >= 1.0)
    assert ratio.item() == pytest.approx(math.exp(log_ratio))
    loss.sum().backward()
    expected = 0.0 if masked.item() else -advantage * math.exp(log_ratio)
    assert (loss.item(), given.grad.item()) == (pytest.approx(expected), pytest.approx(expected))


RANKS = torch.tensor([[2, 0, 1, 3], [0, 1, 1, -1], [1, 0, 2, 0]])


def implicit(seed=0):
    return torch.randn(3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_sigmoid_and_ipo_are_means_over_the_untied_pairs_of_a_ranking():
    rewards = implicit()
    sigmoid = preference_loss(rewards, RANKS, "sigmoid", 2.0, label_smoothing=0.1)
    ipo = preference_loss(rewards, RANKS, "ipo", 2.0)
    for row, (values, ranks) in enumerate(zip(rewards.tolist(), RANKS.tolist())):
        margins = [values[i] - values[j] for i in range(4) for j in range(4) if 0 <= ranks[i] < ranks[j]]
        losses = [0.9 * math.log1p(math.exp(-m)) + 0.1 * math.log1p(math.exp(m)) for m in margins]
        assert sigmoid[row].item() == pytest.approx(sum(losses) / len(losses))
        squares = [(m / 2 - 0.25) ** 2 for m in margins]
        assert ipo[row].item() == pytest.approx(sum(squares) / len(squares))


def test_plackett_luce_is_the_probability_of_the_order_of_draws():
    rewards = implicit()[:1]
    weights = rewards[0].exp().tolist()
    order = [1, 2, 0, 3]
    probability, left = 1.0, sum(weights)
    for video in order:
        probability *= weights[video] / left
        left -= weights[video]
    found = preference_loss(rewards, RANKS[:1], "plackett_luce", 1.0)
    assert found.item() == pytest.approx(-math.log(probability))


def test_rao_kupper_gives_ties_their_probability():
    rewards = torch.tensor([[0.7, -0.2]], dtype=torch.float64)
    a, b = math.exp(0.7), math.exp(-0.2)
    win, lose = a / (a + 3 * b), b / (b + 3 * a)
    for ranks, probability in (([0, 1], win), ([1, 0], lose), ([0, 0], 1 - win - lose)):
        found = preference_loss(rewards, torch.tensor([ranks]), "rao_kupper", 1.0, theta=3.0)
        assert found.item() == pytest.approx(-math.log(probability))


@pytest.mark.parametrize("loss_type", ["sigmoid", "ipo", "plackett_luce", "rao_kupper"])
def test_a_preference_loss_raises_the_best_and_lowers_the_worst(loss_type):
    rewards = torch.zeros(3, 4, requires_grad=True)
    preference_loss(rewards, RANKS, loss_type, 1.0).sum().backward()
    best, worst = best_and_worst(RANKS)
    assert (rewards.grad.gather(1, best) < 0).all()
    assert (rewards.grad.gather(1, worst) > 0).all()
    assert rewards.grad[1, 3] == 0  # missing


def test_statistics_leave_ties_and_missing_videos_out():
    rewards = torch.tensor([[1.0, 3.0, 2.0, 0.0], [5.0, 4.0, 6.0, 99.0], [0.0, 0.0, 0.0, 0.0]])
    found = preference_statistics(rewards[:2], RANKS[:2])
    assert found["rewards/accuracies"].item() == pytest.approx((6 + 1) / 8)
    assert found["rewards/margins"].item() == pytest.approx((2 + 1 + 3 + 1 + 1 + 2 + 1 - 1) / 8)
    assert found["rewards/chosen"].item() == pytest.approx((3 + 5) / 2)
    assert preference_statistics(rewards[2:], torch.zeros(1, 4, dtype=torch.long)) == {}


def test_equal_rewards_are_half_right_as_before_the_first_step():
    ranks = torch.tensor([[1, 2], [2, 1]])
    assert preference_statistics(torch.zeros(2, 2), ranks)["rewards/accuracies"] == 0.5
    rewards = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    assert preference_statistics(rewards, ranks)["rewards/accuracies"] == 0.75


def test_the_std_of_large_rewards_is_their_own():
    rewards = 1000 + 0.01 * torch.randn(8, 8, generator=torch.Generator().manual_seed(0))
    mean, std = mean_and_std(rewards, lambda value: value)
    assert mean.item() == pytest.approx(rewards.double().mean().item(), rel=1e-7)
    assert std.item() == pytest.approx(rewards.double().std(correction=0).item(), rel=1e-3)
