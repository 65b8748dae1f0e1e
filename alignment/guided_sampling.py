"""Alignment without training: best-of-N, and reward guidance of the sampler.

Reward guidance samples from p(x₀) e^{w r(x₀)} instead of p(x₀): the score gets w ∇ₓ r(x̂₀(x)), which in terms of the
velocity is −w σ / (1 − σ) ∇ₓ r(x̂₀(x)) (Flow-NRG of VideoAlign, arXiv 2501.13918, section 4.3; the gradient goes
through the prediction x̂₀ of the network, as in diffusion posterior sampling, arXiv 2209.14687).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.rollouts.reward_mixture import RewardMixture
from alignment.rollouts.sampling_plan import SamplingPlan
from generator import flow
from generator.base import VideoGenerator
from generator.inputs.conditions import Conditions
from generator.output import InputError
from generator.sampling import Velocity, sample_latents, seeded_noise
from generator.seeds import Stream, example_seeds


def reward_guided_velocity(
    velocity: Velocity, reward: Callable[[Tensor], Tensor], weight: float, largest_sigma: float
) -> Velocity:
    """`velocity` plus the pull of a reward of clean latents.

    Args:
        reward: differentiable, `latents [batch, …] -> [batch]`.
        weight: w: 1 tilts the distribution by e^{reward}.
        largest_sigma: σ in 1 − σ is at most this, which bounds the first step (σ = 1); the second-largest noise
            level of the schedule, as in Flow-GRPO's SDE.
    """

    def guided(latents: Tensor, sigma: Tensor) -> Tensor:
        with torch.enable_grad():
            inputs = latents.detach().requires_grad_()
            predicted = velocity(inputs, sigma)
            judged = reward(flow.denoised(inputs, predicted, sigma))
            (gradient,) = torch.autograd.grad(judged.sum(), inputs)
        factor = flow.expand(sigma / (1 - sigma.clamp(max=largest_sigma)), latents)
        return predicted.detach() - weight * factor * gradient

    return guided


def noise_guided_velocity(
    velocity: Velocity, reward: Callable[[Tensor, Tensor], Tensor], weight: float, largest_sigma: float
) -> Velocity:
    """`velocity` plus the pull of a reward that judges noisy latents, r(x, σ) = E[r(x₀) | x].

    No gradient passes the generator, which costs a third of its time and most of its memory (VideoAlign's Flow-NRG,
    arXiv 2501.13918, section 4.3; classifier guidance, arXiv 2105.05233).

    Args:
        reward: differentiable, `latents [batch, …], sigma [batch] -> [batch]`.
        weight, largest_sigma: as in `reward_guided_velocity`.
    """

    def guided(latents: Tensor, sigma: Tensor) -> Tensor:
        with torch.enable_grad():
            inputs = latents.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(reward(inputs, sigma).sum(), inputs)
        factor = flow.expand(sigma / (1 - sigma.clamp(max=largest_sigma)), latents)
        return velocity(latents, sigma) - weight * factor * gradient

    return guided


@dataclass
class AlignedSamples:
    """Sampled latents and their rewards.

    Attributes:
        latents: `[batch, C, F, H, W]`, on the CPU.
        rewards: `[batch]` of the kept videos; `candidates [batch, best_of]` of all.
        seeds: of the kept videos.
    """

    latents: Tensor
    rewards: Tensor
    candidates: Tensor
    seeds: list[int]


def candidate_seeds(seed: int, count: int) -> list[int]:
    """Seeds of the candidates of one video; the first is the video's own."""
    return [seed, *(example_seeds(seed, Stream.CANDIDATES, number)[0] for number in range(1, count))]


def check_alignment(
    generator: VideoGenerator, rewards: RewardMixture, prompts: Sequence[str], reward_guidance: float = 0.0
) -> None:
    """Raises `InputError` where the rewards cannot judge what the generator makes of the prompts, or guide it."""
    rewards.prepare_for(generator)
    if reward_guidance and not rewards.differentiable:
        raise InputError(
            "reward_guidance needs rewards that judge latents with gradients: train one with `vidalign reward`, "
            "or use best_of, which needs no gradient."
        )
    rewards.check_prompts(prompts)


@torch.no_grad()
def sample_aligned(
    plan: SamplingPlan,
    rewards: RewardMixture,
    seeds: Sequence[int],
    best_of: int = 1,
    reward_guidance: float = 0.0,
) -> AlignedSamples:
    """Samples `best_of` candidates of each prompt, guided by the rewards' gradient, and keeps the best one.

    Args:
        plan: of the prompts, one a video; see `SamplingPlan.for_prompts`.
        seeds: one a video; the first candidate of a video has its seed.
        reward_guidance: w of `reward_guided_velocity`; 0 is none.

    Raises:
        InputError: a reward without gradients for guidance, or an impossible number.
    """
    if best_of < 1:
        raise InputError(f"best_of is {best_of}, but must be at least 1.")
    generator = plan.generator
    check_alignment(generator, rewards, plan.prompts, reward_guidance)
    rewards.check_groups(plan.batch_size, best_of, "batch_size", "best_of")
    all_seeds = [seed for first in seeds for seed in candidate_seeds(first, best_of)]
    owners = torch.arange(len(plan.prompts)).repeat_interleave(best_of)
    latents, judged = [], []
    for start in range(0, len(all_seeds), plan.batch_size):
        batch = slice(start, start + plan.batch_size)
        conditions = plan.text_conditions_of(owners[batch])
        velocity = plan.velocity(owners[batch])
        if reward_guidance:
            pull = reward_guidance, float(plan.sigmas[1])
            if rewards.noise_conditioned:
                velocity = noise_guided_velocity(velocity, _noisy_reward_of(rewards, conditions), *pull)
            else:
                velocity = reward_guided_velocity(velocity, _reward_of(rewards, conditions), *pull)
        noise = seeded_noise(all_seeds[batch], plan.latent_shape).to(generator.device)
        sampled = sample_latents(velocity, flow.initial_state(noise, plan.sigmas[0]), plan.sigmas)
        each, _ = rewards.judge(generator, sampled, conditions, plan.texts(owners[batch]), len(sampled))
        latents.append(sampled.cpu())
        judged.append(torch.einsum("m, m b -> b", rewards.weights.to(each), each).cpu())
    candidates = torch.cat(judged).view(len(plan.prompts), best_of)
    best = candidates.argmax(1) + torch.arange(len(plan.prompts)) * best_of
    return AlignedSamples(
        torch.cat(latents)[best], candidates.amax(1), candidates, [all_seeds[i] for i in best.tolist()]
    )


def _reward_of(rewards: RewardMixture, conditions: Conditions) -> Callable[[Tensor], Tensor]:
    return lambda latents: rewards.differentiable_reward(latents, conditions)


def _noisy_reward_of(rewards: RewardMixture, conditions: Conditions) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda latents, sigma: rewards.differentiable_noisy_reward(latents, sigma, conditions)
