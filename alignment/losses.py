"""The losses of the trainers as pure functions of what the networks predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from generator import flow
from generator.sampling import SdeSettings, sde_step
from reward.losses import plackett_luce, rao_kupper


def flow_matching_error(velocity: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
    """‖v − (ε − x₀)‖² `[batch]`, the mean over the elements of each sample (arXiv 2209.03003, eq. 1)."""
    return velocity_error(velocity, flow.velocity_target(x0, noise))


def velocity_error(velocity: Tensor, target: Tensor) -> Tensor:
    """‖v − target‖² `[batch]`, the mean over the elements of each sample."""
    return ((velocity - target) ** 2).flatten(1).mean(1)


PREFERENCE_LOSSES = ("sigmoid", "ipo", "plackett_luce", "rao_kupper")


def implicit_rewards(errors: Tensor, reference_errors: Tensor, beta: float) -> Tensor:
    """−β/2 (error of the policy − error of the reference), the reward that a flow model implies.

    Flow-DPO (Liu et al. 2025, arXiv 2501.13918, eq. 10, constant β; Wallace et al. 2023, arXiv 2311.12908).

    Args:
        errors, reference_errors: flow-matching errors of any shape, with the same noise and noise level for all
            videos that are compared.
        beta: strength of the pull to the reference; 100 to 5000, as errors are means over elements.
    """
    return -0.5 * beta * (errors - reference_errors)


def preference_loss(
    rewards: Tensor,
    ranks: Tensor,
    loss_type: str,
    beta: float,
    label_smoothing: float = 0.0,
    theta: float = 5.0,
) -> Tensor:
    """Negative log-likelihood `[batch]` of rankings under implicit rewards.

    Args:
        rewards: `[batch, K]`.
        ranks: `[batch, K]`, lower is better, equal is a tie, −1 is missing.
        loss_type: `sigmoid`: −log σ(margin) of every untied pair (DPO). `ipo`: (margin / β − 1 / 2β)² of every
            untied pair (arXiv 2310.12036, eq. 17). `plackett_luce`: the whole ranking, ties by Efron's
            approximation (`reward.losses`). `rao_kupper`: pairs with ties (1967; `reward.losses`).
        beta: of the implicit rewards, for `ipo`.
        label_smoothing: assumed probability that a label is wrong (conservative DPO), for `sigmoid`.
        theta: above 1, the larger the likelier a tie, for `rao_kupper`.
    """
    if loss_type == "plackett_luce":
        return plackett_luce(rewards, ranks)
    if loss_type == "rao_kupper":
        return rao_kupper(rewards, ranks, theta)
    i, j, ordered = ordered_pairs(ranks)
    sign = torch.where(ranks[:, i] < ranks[:, j], 1.0, -1.0).to(rewards)
    margin = sign * (rewards[:, i] - rewards[:, j])
    if loss_type == "sigmoid":
        loss = -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
    elif loss_type == "ipo":
        loss = (margin / beta - 1 / (2 * beta)) ** 2
    else:
        raise ValueError(f"loss_type is {loss_type!r}, but must be one of {', '.join(PREFERENCE_LOSSES)}.")
    return (loss * ordered).sum(1) / ordered.sum(1).clamp(min=1)


def ordered_pairs(ranks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Indices `i < j` `[pairs]` of all pairs of videos, and whether their labels differ `[batch, pairs]`."""
    i, j = torch.triu_indices(ranks.shape[1], ranks.shape[1], offset=1, device=ranks.device)
    return i, j, (ranks[:, i] >= 0) & (ranks[:, j] >= 0) & (ranks[:, i] != ranks[:, j])


def preference_statistics(rewards: Tensor, ranks: Tensor) -> dict[str, Tensor]:
    """Means over a batch of what is logged of rankings `[batch, K]`: rewards of the best and worst video, and
    margin and accuracy of all pairs that are not tied; empty where there is no such pair."""
    i, j, ordered = ordered_pairs(ranks)
    if not ordered.any():
        return {}
    sign = torch.where(ranks[:, i] < ranks[:, j], 1.0, -1.0).to(rewards)
    margins = (sign * (rewards[:, i] - rewards[:, j]))[ordered]
    rows = ordered.any(1)
    best, worst = best_and_worst(ranks[rows])
    return {
        "rewards/chosen": rewards[rows].gather(1, best).mean(),
        "rewards/rejected": rewards[rows].gather(1, worst).mean(),
        "rewards/margins": margins.mean(),
        "rewards/accuracies": share_of_right_margins(margins),
    }


def share_of_right_margins(margins: Tensor) -> Tensor:
    """Accuracy over pairs with `margins` (preferred minus other): the share above 0, equal ones counting ½."""
    return (margins.sign().float().mean() + 1) / 2


def best_and_worst(ranks: Tensor) -> tuple[Tensor, Tensor]:
    """Index `[batch, 1]` of the first video of the lowest and of the highest rank; −1 is missing."""
    best = torch.where(ranks >= 0, ranks, ranks.max() + 1).argmin(1, keepdim=True)
    return best, ranks.argmax(1, keepdim=True)


@dataclass(frozen=True)
class PreferenceTerms:
    """The DPO loss and what is logged with it; tensors `[batch]`."""

    loss: Tensor
    chosen_rewards: Tensor
    rejected_rewards: Tensor


def dpo_loss(
    chosen_error: Tensor,
    rejected_error: Tensor,
    reference_chosen_error: Tensor,
    reference_rejected_error: Tensor,
    beta: float,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
) -> PreferenceTerms:
    """`preference_loss` of pairs, from their flow-matching errors `[batch]`."""
    chosen = implicit_rewards(chosen_error, reference_chosen_error, beta)
    rejected = implicit_rewards(rejected_error, reference_rejected_error, beta)
    rewards = torch.stack([chosen, rejected], dim=1)
    ranks = torch.tensor([0, 1], device=rewards.device).expand(len(rewards), 2)
    loss = preference_loss(rewards, ranks, loss_type, beta, label_smoothing)
    return PreferenceTerms(loss, chosen.detach(), rejected.detach())


def clipped_ratio_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """PPO's max(−A ρ, −A clip(ρ, 1 − ε, 1 + ε)) (arXiv 1707.06347, eq. 7); returns (loss, ratio ρ), both
    `[batch]`."""
    ratio = torch.exp(log_probs - old_log_probs)
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - epsilon, 1 + epsilon))
    return loss, ratio


def uniform_weights(sigma: Tensor) -> Tensor:
    """Returns ones."""
    return torch.ones_like(sigma)


def sigma_weights(sigma: Tensor) -> Tensor:
    """Returns the noise levels."""
    return sigma


def squared_sigma_weights(sigma: Tensor) -> Tensor:
    """Returns the squares of the noise levels."""
    return sigma**2


MATCHING_WEIGHTS: dict[str, Callable[[Tensor], Tensor]] = {
    "uniform": uniform_weights,
    "sigma": sigma_weights,
    "sigma_squared": squared_sigma_weights,
}
"""Weights of noise levels `[batch]` in `matching_log_ratio`, by name."""


def matching_log_ratio(errors: Tensor, old_errors: Tensor, sigma: Tensor, weight: str = "uniform") -> Tensor:
    """−w(σ) (ℓ − ℓ_old) `[batch]`: the flow-matching error takes the place of −log π (advantage-weighted matching, AWM,
    arXiv 2509.25050).

    Args:
        errors, old_errors: `[batch]`, ‖v − (ε − x₀)‖² of the trained and of the sampling policy on a video of the
            latter, with the same noise ε and noise level.
        sigma: noise levels `[batch]`.
        weight: a name of `MATCHING_WEIGHTS`.
    """
    return -MATCHING_WEIGHTS[weight](sigma) * (errors - old_errors)


def divergence_masked_loss(
    log_ratio: Tensor, advantages: Tensor, divergence: Tensor, most: float
) -> tuple[Tensor, Tensor, Tensor]:
    """−A ρ, without gradient where the policy has gone far and would go further (Flow-DPPO, arXiv 2606.11025).

    Not the ratio, which one sample of noise makes large or small, but the divergence decides; the loss itself is 0
    where it is masked.

    Args:
        log_ratio, advantages: `[batch]`, log ρ and A.
        divergence: `[batch]`, KL(π_old ‖ π) of the step; see `generator.flow.gaussian_kl`.
        most: δ, above which a step that raises ρ > 1 or lowers ρ < 1 is masked.

    Returns:
        Loss, ratio ρ, and whether a step is masked, `[batch]` each.
    """
    ratio = torch.exp(log_ratio)
    further = torch.where(advantages > 0, ratio > 1, (ratio < 1) & (advantages < 0))
    masked = further & (divergence >= most)
    return torch.where(masked, torch.zeros_like(ratio), -advantages * ratio), ratio, masked


def normalised_log_ratio(log_ratio: Tensor, mean: Tensor, old_mean: Tensor, std: Tensor) -> Tensor:
    """RatioNorm `[batch]`: s (log ρ + ‖μ − μ_old‖² / 2s²) (GRPO-Guard, arXiv 2510.22319, eq. 8).

    Under the old policy log ρ has the mean −‖μ − μ_old‖² / 2s² and a spread that differs from step to step, so that a
    symmetric clip range stops small ratios and lets large ones through. This one is ε · (μ − μ_old), ε being the noise
    of the step: its mean is 0, whatever s.

    Args:
        log_ratio: `[batch]`, log ρ; ‖·‖² and it are means over elements.
        mean, old_mean: of the step under the trained and under the sampling policy, `[batch, …]`.
        std: s of the step, of a shape that fits `mean`.
    """
    drift = ((mean - old_mean) ** 2 / (2 * std**2)).flatten(1).mean(1)
    return std.expand_as(mean).flatten(1)[:, 0] * (log_ratio + drift)


def adapted_beta(beta: float, kl: float, target: float, gain: float) -> float:
    """β (1 + K clip((KL − target) / target, −0.2, 0.2)) (Ziegler et al. 2019, arXiv 1909.08593, section 2.2)."""
    error = min(max((kl - target) / target, -0.2), 0.2)
    return beta * (1 + gain * error)


def equal_weights(std: Tensor, derivative: Tensor) -> Tensor:
    """Returns ones."""
    return torch.ones_like(std)


def inverse_std_weights(std: Tensor, derivative: Tensor) -> Tensor:
    """Returns the inverse of each step's standard deviation."""
    return 1 / std


def balanced_weights(std: Tensor, derivative: Tensor) -> Tensor:
    """Returns weights with which a unit change of the velocity counts the same at each step.

    With `flow_sde` they are λ = 1 / (√Δt / η + η √Δt (1 − σ) / 2σ), η being the noise of the step by √Δt (Flash-GRPO,
    arXiv 2605.15980), and with `dance_sde` the same of its η.
    """
    return std / derivative.abs()


STEP_WEIGHTS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "none": equal_weights,
    "inverse_std": inverse_std_weights,
    "balanced": balanced_weights,
}
"""Unscaled weights `[num_steps]` by name, from the std of each stochastic step and ∂mean/∂velocity, `[num_steps]` both.

`balanced` makes a unit change of the velocity count the same at each step; without it, early steps of a shifted
schedule get almost no gradient.
"""


def step_weights(sigmas: Tensor, settings: SdeSettings, kind: str) -> Tensor:
    """Weights `[num_steps]` of the stochastic steps in the policy loss; their mean is 1.

    Args:
        sigmas: the schedule.
        settings: the kernel and its window.
        kind: a name of `STEP_WEIGHTS`.
    """
    if kind not in STEP_WEIGHTS:
        raise ValueError(f"step_weight is {kind!r}, but must be one of {', '.join(STEP_WEIGHTS)}.")
    steps = torch.arange(settings.first_step, settings.first_step + settings.num_steps, device=sigmas.device)
    ones = torch.ones(len(steps), 1, device=sigmas.device)
    # The mean is linear in (latents, velocity): with latents 0 and velocity 1 it is the derivative itself.
    derivative, std = sde_step(settings, sigmas, steps, torch.zeros_like(ones), ones)
    weights = STEP_WEIGHTS[kind](std.expand_as(ones).flatten(), derivative.flatten())
    return weights / weights.mean()
