"""Rollouts: groups of sampled trajectories, their rewards, and the rows that an update learns from."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from alignment.lora import adapters_disabled
from alignment.rollouts.sampling_plan import SamplingPlan
from generator import flow
from generator.sampling import (
    Reference,
    SdeSettings,
    Trajectories,
    Velocity,
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
        prompt_indices: `[batch]`, the index of each prompt in the plan; on the CPU.
        trajectories: what was sampled.
        rewards: `[batch]`.
        scores: every score that the reward models gave, `[batch]` each.
        advantages: `[batch, W]`, of each stochastic step; `[batch, 1]` where there is none; empty until they are
            computed.
    """

    index: int
    prompts: list[str]
    prompt_indices: Tensor
    trajectories: Trajectories
    rewards: Tensor
    scores: dict[str, Tensor]
    advantages: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass
class StepRows:
    """Denoising steps for one micro-batch, `[batch, ...]` each.

    Attributes:
        step: index in the window, from 0.
        latents, next_latents: before and after the step.
        old_log_probs: under the policy that took it.
        reference_means: of the reference policy, or None.
        advantages: of the step.
        prompt_indices: of the prompt in the plan; on the CPU.
        index: number of the step in the rollout.
        old_means: of the policy that took the step, or None.
        unconditional: unconditional velocities that are not trained, or None.
    """

    step: Tensor
    latents: Tensor
    next_latents: Tensor
    old_log_probs: Tensor
    reference_means: Tensor | None
    advantages: Tensor
    prompt_indices: Tensor
    index: Tensor
    old_means: Tensor | None = None
    unconditional: Tensor | None = None


def sample_groups(
    plan: SamplingPlan,
    policy: torch.nn.Module,
    prompts: Tensor,
    seeds: Sequence[int],
    settings: SdeSettings,
    compared: Tensor | None = None,
    keep_reference_means: bool = True,
    finished: Callable[[Tensor], None] | None = None,
    stepped: Callable[[int], None] | None = None,
    keep_means: bool = False,
    keep_unconditional: bool = False,
) -> Trajectories:
    """Samples one trajectory a prompt index of `prompts` `[batch]`; each depends on its own seed only.

    Args:
        policy: the module that predicts; with adapters disabled it is the reference.
        seeds: of the start and the noise of each trajectory.
        settings: kernel and window of the stochastic steps.
        compared: `[batch]` booleans, the trajectories whose divergence from the reference is measured; None
            for none.
        keep_reference_means: whether the means of the reference are kept; all must then be compared.
        finished: is given the clean latents of each batch as soon as it is sampled.
        stepped: is given the number of videos after each denoising step.
        keep_means: whether the means of the stochastic steps are kept.
        keep_unconditional: whether their unconditional velocities are kept, where there is guidance.
    """
    window = range(settings.first_step, settings.first_step + settings.num_steps)

    def sample(rows: slice) -> Trajectories:
        calls, unconditional = itertools.count(), []

        def note(velocity: Tensor) -> None:
            if next(calls) in window:
                unconditional.append(velocity)

        noise = seeded_noise(seeds[rows], (1 + settings.num_steps, *plan.latent_shape))
        noise = plan.unknown(noise.to(plan.generator.device))
        velocity = plan.velocity(prompts[rows], policy, noted=note if keep_unconditional else None)
        reference = None
        if compared is not None and compared[rows].any():
            chosen = compared[rows].nonzero().flatten()
            everyone = len(chosen) == len(noise)
            of_chosen = plan.velocity(prompts[rows][chosen], policy)
            reference = Reference(
                _without_adapters(policy, of_chosen),
                None if everyone else chosen.to(noise.device),
                keep_reference_means,
            )
        sampled = sample_trajectories(
            velocity, noise, plan.sigmas, settings, reference, stepped, keep_means, plan.solver
        )
        sampled.final = plan.whole(sampled.final, prompts[rows])
        sampled.unconditional = torch.stack(unconditional, dim=1) if unconditional else None
        return sampled

    return _in_batches(plan, len(seeds), sample, finished)


def ode_samples(
    plan: SamplingPlan,
    policy: torch.nn.Module,
    prompts: Tensor,
    seeds: Sequence[int],
    finished: Callable[[Tensor], None] | None = None,
    stepped: Callable[[int], None] | None = None,
) -> Trajectories:
    """Samples of the ODE, as trajectories without a stochastic step; the arguments are `sample_groups`'."""

    def sample(rows: slice) -> Trajectories:
        noise = plan.unknown(seeded_noise(seeds[rows], plan.latent_shape).to(plan.generator.device))
        velocity = plan.velocity(prompts[rows], policy)
        start = flow.initial_state(noise, plan.sigmas[0])
        final = sample_latents(velocity, start, plan.sigmas, plan.solver, stepped)
        final = plan.whole(final, prompts[rows])
        return Trajectories(
            final=final,
            states=final.new_zeros(len(final), 0, *plan.latent_shape),
            log_probs=final.new_zeros(len(final), 0),
            reference_means=None,
            kl=None,
            sigmas=plan.sigmas.to(final.device),
            settings=None,
        )

    return _in_batches(plan, len(seeds), sample, finished)


def _in_batches(
    plan: SamplingPlan,
    count: int,
    sample: Callable[[slice], Trajectories],
    finished: Callable[[Tensor], None] | None,
) -> Trajectories:
    """Joined trajectories of `count` videos, sampled in the plan's batches."""
    parts = []
    for start in range(0, count, plan.batch_size):
        parts.append(sample(slice(start, start + plan.batch_size)))
        if finished is not None:
            finished(parts[-1].final)
    return join_trajectories(parts)


def _without_adapters(policy: torch.nn.Module, velocity: Velocity) -> Velocity:
    """The velocity of the reference policy: the same network with its LoRA layers off."""

    def reference_velocity(latents: Tensor, sigma: Tensor) -> Tensor:
        with adapters_disabled(policy):
            return velocity(latents, sigma)

    return reference_velocity


def step_rows(rollout: Rollout, rows: Tensor) -> StepRows:
    """The denoising steps `rows` `[batch]` of a rollout, numbered trajectory by trajectory; best on the CPU."""
    trajectories = rollout.trajectories
    num_steps, device = trajectories.log_probs.shape[1], trajectories.log_probs.device
    videos, rows = rows.cpu() // num_steps, rows.to(device, non_blocking=True)
    video, step = rows // num_steps, rows % num_steps
    means, unconditional = trajectories.reference_means, trajectories.unconditional
    return StepRows(
        step=step,
        latents=trajectories.states[video, step],
        next_latents=trajectories.states[video, step + 1],
        old_log_probs=trajectories.log_probs[video, step],
        reference_means=None if means is None else means[video, step],
        advantages=rollout.advantages[video, step],
        prompt_indices=rollout.prompt_indices[videos],
        index=rows,
        old_means=None if trajectories.means is None else trajectories.means[video, step],
        unconditional=None if unconditional is None else unconditional[video, step],
    )
