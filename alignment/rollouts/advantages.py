"""Advantages from the rewards of groups: how much better a sample is than others of the same prompt."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def group_relative_advantages(
    rewards: Tensor,
    scale: str = "group",
    clip: float = 5.0,
    epsilon: float = 1e-4,
    global_std: Tensor | None = None,
) -> Tensor:
    """(r − mean of the group) / (std + ε), clipped (GRPO, arXiv 2402.03300, eq. 4; global std: arXiv
    2508.08221).

    Args:
        rewards: `[groups, num_generations]`.
        scale: `group` divides by the std of each group, `global` by the std of all rewards, `none` not at
            all.
        clip: largest absolute advantage.
        epsilon: added to the std, so that a group whose rewards differ by less than about this much (by
            rounding, say) gets advantages near zero and not of full size.
        global_std: the std over all processes for `scale="global"`; of `rewards` where not given.

    Returns:
        `[groups, num_generations]`.
    """
    rewards = rewards.double()  # In float32 the mean of equal rewards is not always exactly that reward.
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    if scale == "group":
        centred = centred / (rewards.std(dim=1, correction=0, keepdim=True) + epsilon)
    elif scale == "global":
        std = rewards.std(correction=0) if global_std is None else global_std
        centred = centred / (std + epsilon)
    elif scale != "none":
        raise ValueError(f"scale is {scale!r}, but must be 'group', 'global' or 'none'.")
    return centred.clamp(-clip, clip).float()


def generalised_advantages(
    rewards: Tensor, values: Tensor, gamma: float = 1.0, gae_lambda: float = 0.95
) -> tuple[Tensor, Tensor]:
    """Advantages and returns `[batch, steps]` of denoising steps (GAE, arXiv 1506.02438, eq. 16).

    δ_t = r_t + γ V(s_{t+1}) − V(s_t) and A_t = Σ_l (γλ)^l δ_{t+l}, where the reward comes after the last step and
    the value of a finished video is 0. Returns are A + V.

    Args:
        rewards: `[batch]`, of the finished videos.
        values: `[batch, steps]`, of the states before each step.
    """
    following = torch.cat([values[:, 1:], torch.zeros_like(values[:, :1])], dim=1)
    deltas = gamma * following - values
    deltas[:, -1] += rewards
    advantages = torch.zeros_like(values)
    running = torch.zeros_like(rewards)
    for step in reversed(range(values.shape[1])):
        running = deltas[:, step] + gamma * gae_lambda * running
        advantages[:, step] = running
    return advantages, advantages + values


def share_without_spread(rewards: Tensor, epsilon: float = 1e-4) -> Tensor:
    """Share of the groups `[groups, num_generations]` whose std is at most `epsilon`: they teach nothing."""
    return (rewards.std(dim=1, correction=0) <= epsilon).float().mean()


def mean_and_std(rewards: Tensor, reduce_sum: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and std of rewards over all processes; `reduce_sum` adds a tensor over processes."""
    rewards = rewards.double()  # In float32 the squares of large rewards drown their variance.
    sums = reduce_sum(torch.stack([rewards.new_tensor(rewards.numel()), rewards.sum(), (rewards**2).sum()]))
    mean = sums[1] / sums[0]
    return mean.float(), (sums[2] / sums[0] - mean**2).clamp_min(0).sqrt().float()
