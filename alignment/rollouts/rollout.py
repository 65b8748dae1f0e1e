"""Rollouts: groups of sampled trajectories, their rewards, and the rows that an update learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.lora import adapters_disabled
from generator.base import VideoGenerator
from generator.conditions import Conditions, select
from generator.sampling import (
    Reference,
    SdeSettings,
    Trajectories,
    Velocity,
    guided_velocity,
    join_trajectories,
    sample_latents,
    sample_trajectories,
    seeded_noise,
)


@dataclass
class Rollout:
    """Trajectories of one process with what was thought of them.

    Attributes:
        index: number of the rollout, from 0.
        prompts: one a trajectory; the members of a group follow each other.
        rows: `[batch]`, the row of each prompt in the trainer's table of conditions.
        trajectories: what was sampled.
        rewards: `[batch]`.
        scores: every score that the reward models gave, `[batch]` each.
        advantages: `[batch, W]`, of each stochastic step; `[batch, 1]` where there is none.
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
        advantages: of the step.
        rows: of the prompt in the table of conditions.
        index: number of the step in the rollout.
    """

    step: Tensor
    latents: Tensor
    next_latents: Tensor
    old_log_probs: Tensor
    reference_means: Tensor | None
    advantages: Tensor
    rows: Tensor
    index: Tensor


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
    batch_size: int,
    compared: Tensor | None = None,
    keep_reference_means: bool = True,
    finished: Callable[[Tensor], None] | None = None,
    stepped: Callable[[int], None] | None = None,
) -> Trajectories:
    """Samples one trajectory a row of `conditions`, in batches; each depends on its own seed only.

    Args:
        policy: the module that predicts; with adapters disabled it is the reference.
        seeds: of the start and the noise of each trajectory.
        compared: `[batch]` booleans, the trajectories whose divergence from the reference is measured; None
            for none.
        keep_reference_means: whether the means of the reference are kept; all must then be compared.
        finished: is given the clean latents of each batch as soon as it is sampled.
        stepped: is given the number of videos after each denoising step.
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
        reference = None
        if compared is not None and compared[rows].any():
            chosen = compared[rows].nonzero().flatten()
            of_chosen = velocity
            if len(chosen) < len(noise):
                of_chosen = guided_velocity(
                    generator,
                    select(conditions, start + chosen),
                    None if negative_conditions is None else select(negative_conditions, start + chosen),
                    guidance_scale,
                    policy,
                )
            reference = Reference(
                _without_adapters(policy, of_chosen),
                None if len(chosen) == len(noise) else chosen.to(noise.device),
                keep_reference_means,
            )
        parts.append(sample_trajectories(velocity, noise, sigmas, settings, reference, stepped))
        if finished is not None:
            finished(parts[-1].final)
    return join_trajectories(parts)


def _without_adapters(policy: torch.nn.Module, velocity: Velocity) -> Velocity:
    """The velocity of the reference policy: the same network with its LoRA layers off."""

    def reference_velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        with adapters_disabled(policy):
            return velocity(latents, sigma)

    return reference_velocity


def ode_samples(
    generator: VideoGenerator,
    policy: torch.nn.Module,
    conditions: Conditions,
    negative_conditions: Conditions | None,
    seeds: Sequence[int],
    latent_shape: Sequence[int],
    sigmas: Tensor,
    guidance_scale: float,
    batch_size: int,
    finished: Callable[[Tensor], None] | None = None,
    stepped: Callable[[int], None] | None = None,
) -> Trajectories:
    """Samples of the ODE, as trajectories without a stochastic step; the arguments are `sample_groups`'."""
    parts = []
    for start in range(0, len(seeds), batch_size):
        rows = slice(start, start + batch_size)
        velocity = guided_velocity(
            generator,
            select(conditions, rows),
            None if negative_conditions is None else select(negative_conditions, rows),
            guidance_scale,
            policy,
        )
        noise = seeded_noise(seeds[rows], latent_shape).to(generator.device)
        parts.append(sample_latents(velocity, noise, sigmas, stepped=stepped))
        if finished is not None:
            finished(parts[-1])
    final = torch.cat(parts)
    return Trajectories(
        final=final,
        states=final.new_zeros(len(final), 0, *latent_shape),
        log_probs=final.new_zeros(len(final), 0),
        reference_means=None,
        kl=None,
        sigmas=sigmas.to(final.device),
        settings=None,
    )


def step_rows(rollout: Rollout, rows: Tensor) -> StepRows:
    """The denoising steps `rows` `[batch]` of a rollout, numbered trajectory by trajectory; best on the CPU."""
    trajectories = rollout.trajectories
    num_steps, device = trajectories.log_probs.shape[1], trajectories.log_probs.device
    own, rows = rows.cpu() // num_steps, rows.to(device, non_blocking=True)
    member, step = rows // num_steps, rows % num_steps
    means = trajectories.reference_means
    return StepRows(
        step=step,
        latents=trajectories.states[member, step],
        next_latents=trajectories.states[member, step + 1],
        old_log_probs=trajectories.log_probs[member, step],
        reference_means=None if means is None else means[member, step],
        advantages=rollout.advantages[member, step],
        rows=rollout.rows[own],
        index=rows,
    )
