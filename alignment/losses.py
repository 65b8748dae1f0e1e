"""The losses of the trainers as pure functions of what the networks predict."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from generator import flow
from generator.sampling import SdeSettings, sde_step


def flow_matching_error(velocity: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
    """‖v − (ε − x₀)‖² `[batch]`, the mean over the elements of each sample (arXiv 2209.03003, eq. 1)."""
    return ((velocity - flow.velocity_target(x0, noise)) ** 2).flatten(1).mean(1)


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
    """Flow-DPO (Liu et al. 2025, arXiv 2501.13918, eq. 10, constant β; Wallace et al. 2023, arXiv
    2311.12908).

    The implicit reward of a video is −β/2 (error of the policy − error of the reference), with the same noise
    and noise level in all four errors.

    Args:
        chosen_error, …: flow-matching errors `[batch]`.
        beta: strength of the pull to the reference; 100 to 5000, as errors are means over elements.
        loss_type: `sigmoid`: −log σ(margin) (DPO); `ipo`: (margin / β − 1 / 2β)² (arXiv 2310.12036, eq. 17).
        label_smoothing: assumed probability that a label is wrong (conservative DPO), for `sigmoid`.
    """
    chosen = -0.5 * beta * (chosen_error - reference_chosen_error)
    rejected = -0.5 * beta * (rejected_error - reference_rejected_error)
    margin = chosen - rejected
    if loss_type == "sigmoid":
        loss = -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
    elif loss_type == "ipo":
        loss = (margin / beta - 1 / (2 * beta)) ** 2
    else:
        raise ValueError(f"loss_type is {loss_type!r}, but must be 'sigmoid' or 'ipo'.")
    return PreferenceTerms(loss, chosen.detach(), rejected.detach())


def clipped_ratio_loss(
    log_probs: Tensor, old_log_probs: Tensor, advantages: Tensor, epsilon: float
) -> tuple[Tensor, Tensor]:
    """PPO's max(−A ρ, −A clip(ρ, 1 − ε, 1 + ε)) (arXiv 1707.06347, eq. 7); returns (loss, ratio ρ), both
    `[batch]`."""
    ratio = torch.exp(log_probs - old_log_probs)
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - epsilon, 1 + epsilon))
    return loss, ratio


def adapted_beta(beta: float, kl: float, target: float, gain: float) -> float:
    """β (1 + K clip((KL − target) / target, −0.2, 0.2)) (Ziegler et al. 2019, arXiv 1909.08593, section 2.2)."""
    error = min(max((kl - target) / target, -0.2), 0.2)
    return beta * (1 + gain * error)


def step_weights(sigmas: Tensor, settings: SdeSettings, kind: str) -> Tensor:
    """Weights `[num_steps]` of the stochastic steps in the policy loss; their mean is 1.

    Args:
        sigmas: the schedule.
        settings: the kernel and its window.
        kind: `none`: all 1. `inverse_std`: 1 / std of the step. `balanced`: std / |∂mean/∂v|, so that a unit
            change of the velocity counts the same at each step; without it, early steps of a shifted schedule
            get almost no gradient.
    """
    steps = torch.arange(settings.first_step, settings.first_step + settings.num_steps, device=sigmas.device)
    if kind == "none":
        return torch.ones(len(steps), device=sigmas.device)
    ones = torch.ones(len(steps), 1, device=sigmas.device)
    # The mean is linear in (latents, velocity): with latents 0 and velocity 1 it is the derivative itself.
    derivative, std = sde_step(settings, sigmas, steps, torch.zeros_like(ones), ones)
    std = std.expand_as(ones).flatten()
    if kind == "inverse_std":
        weights = 1 / std
    elif kind == "balanced":
        weights = std / derivative.flatten().abs()
    else:
        raise ValueError(f"step_weight is {kind!r}, but must be 'none', 'inverse_std' or 'balanced'.")
    return weights / weights.mean()
