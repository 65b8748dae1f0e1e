"""Rollouts: groups of sampled trajectories, their rewards, and the rows that an update learns from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignment.adapters import adapters_disabled
from generator.base import Conditions, VideoGenerator, select
from generator.output import InputError
from generator.sampling import (
    SdeSettings,
    Trajectories,
    guided_velocity,
    join_trajectories,
    sample_trajectories,
    seeded_noise,
)

if TYPE_CHECKING:
    from reward.models.base import RewardModel


@dataclass
class Rollout:
    """Trajectories of one process with what was thought of them.

    Attributes:
        index: number of the rollout, from 0.
        prompts: one a trajectory; the members of a group follow each other.
        rows: `[batch]`, the row of each prompt in the trainer's table of conditions.
        trajectories: what was sampled.
        rewards: `[batch]`.
        scores: every score that the reward model gave, `[batch]` each.
        advantages: `[batch]`.
    """

    index: int
    prompts: list[str]
    rows: Tensor
    trajectories: Trajectories
    rewards: Tensor
    scores: dict[str, Tensor]
    advantages: Tensor

    @property
    def num_rows(self) -> int:
        """Trained denoising steps: one a trajectory and stochastic step."""
        return self.trajectories.log_probs.numel()


@dataclass
class StepRows:
    """Denoising steps for one micro-batch, `[batch, ...]` each.

    Attributes:
        step: index in the window, from 0.
        latents, next_latents: before and after the step.
        old_log_probs: under the policy that took it.
        reference_means: of the reference policy, or None.
        advantages: of the step's trajectory.
        rows: of the prompt in the table of conditions.
    """

    step: Tensor
    latents: Tensor
    next_latents: Tensor
    old_log_probs: Tensor
    reference_means: Tensor | None
    advantages: Tensor
    rows: Tensor


def sample_groups(
    generator: VideoGenerator,
    policy: torch.nn.Module,
    conditions: Conditions,
    negative_conditions: Conditions | None,
    seeds: Sequence[int],
    latent_shape: Sequence[int],
    sigmas: Tensor,
    settings: SdeSettings,
    guidance_scale: float,
    with_reference: bool,
    batch_size: int,
) -> Trajectories:
    """Samples one trajectory a row of `conditions`, in batches; each depends on its own seed only.

    Args:
        policy: the module that predicts; with adapters disabled it is the reference.
        seeds: of the start and the noise of each trajectory.
        with_reference: also record what the reference would have done.
    """
    parts = []
    for start in range(0, len(seeds), batch_size):
        rows = slice(start, start + batch_size)
        noise = seeded_noise(seeds[rows], (1 + settings.num_steps, *latent_shape)).to(generator.device)
        velocity = guided_velocity(
            generator,
            select(conditions, rows),
            None if negative_conditions is None else select(negative_conditions, rows),
            guidance_scale,
            policy,
        )
        reference = (lambda: adapters_disabled(policy)) if with_reference else None
        parts.append(sample_trajectories(velocity, noise, sigmas, settings, reference))
    return join_trajectories(parts)


@torch.no_grad()
def judge(
    reward: RewardModel,
    generator: VideoGenerator,
    latents: Tensor,
    conditions: Conditions,
    prompts: Sequence[str],
    dimension: str | None,
    batch_size: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Rewards `[batch]` and all scores of latents; videos are decoded only if the reward model needs pixels.

    Args:
        dimension: the score that is the reward; where None, `overall`, or the mean of all scores.
    """
    scores: dict[str, list[Tensor]] = {}
    for start in range(0, len(latents), batch_size):
        rows = slice(start, start + batch_size)
        if reward.scores_latents:
            found = reward.score_latents(latents[rows], select(conditions, rows))
        else:
            found = reward.score(generator.decode(latents[rows]), prompts[rows])
        for name, value in found.items():
            scores.setdefault(name, []).append(value.float().to(latents.device))
    joined = {name: torch.cat(parts) for name, parts in scores.items()}
    if dimension is not None and dimension not in joined:
        raise InputError(
            f"The reward {reward.name!r} has no score {dimension!r}: set reward_dimension to one of "
            f"{', '.join(joined)}."
        )
    chosen = dimension or ("overall" if "overall" in joined else None)
    rewards = joined[chosen] if chosen else torch.stack(list(joined.values())).mean(0)
    if not torch.isfinite(rewards).all():
        raise InputError(
            f"The reward {reward.name!r} gave a score that is not a finite number: check its weights."
        )
    return rewards, joined


def step_rows(rollout: Rollout, rows: Tensor) -> StepRows:
    """The denoising steps `rows` `[batch]` of a rollout, numbered trajectory by trajectory."""
    trajectories = rollout.trajectories
    member, step = rows // trajectories.settings.num_steps, rows % trajectories.settings.num_steps
    means = trajectories.reference_means
    return StepRows(
        step=step,
        latents=trajectories.states[member, step],
        next_latents=trajectories.states[member, step + 1],
        old_log_probs=trajectories.log_probs[member, step],
        reference_means=None if means is None else means[member, step],
        advantages=rollout.advantages[member],
        rows=rollout.rows[member.cpu()],
    )
