"""DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117): policy optimisation on the forward process."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from alignment.losses import clipped_ratio_loss, matching_log_ratio
from alignment.rollouts.judge import Judging
from alignment.rollouts.rollout import Rollout
from alignment.trainers.nft_config import NFTConfig
from alignment.trainers.noised_videos import NoisedVideos, Noising
from alignment.trainers.rollout_trainer import RolloutTrainer
from alignment.trainers.weight_average import WeightAverage
from generator import flow
from generator.output import InputError
from generator.sampling import Trajectories


def optimality(advantages: Tensor, clip: float) -> Tensor:
    """Probability (1 + clip(A / c, −1, 1)) / 2 that a video is a good one (eq. 12)."""
    return 0.5 + 0.5 * (advantages / clip).clamp(-1, 1)


def old_policy_decay(rollout: int, flat: int, rate: float, most: float) -> float:
    """Decay η of the sampling policy θ_old ← η θ_old + (1 − η) θ before rollout number `rollout` (section 3.3).

    It is 0 for the first `flat` rollouts, then grows by `rate` with each up to `most`: early on the policy samples
    itself, which learns fast; later it follows its own updates slowly, which keeps them from feeding on themselves.
    """
    return min(max(rollout - flat, 0) * rate, most)


def nft_loss(
    velocity: Tensor,
    old_velocity: Tensor,
    latents: Tensor,
    x0: Tensor,
    sigma: Tensor,
    probability: Tensor,
    strength: float,
) -> Tensor:
    """The negative-aware flow-matching loss `[batch]` (eq. 8), each branch weighted by its own error.

    With v⁺ = (1 − β) v_old + β v and v⁻ = (1 + β) v_old − β v it is r ‖x̂₀⁺ − x₀‖² + (1 − r) ‖x̂₀⁻ − x₀‖², each
    norm divided by the mean absolute error of its own prediction, without gradient (section 3.3).

    Args:
        velocity, old_velocity: of the trained and of the sampling policy, `[batch, …]`.
        latents: noised videos at `sigma [batch]`; x0: clean ones.
        probability: `[batch]`, from `optimality`.
        strength: β.
    """
    branches = (
        (1 - strength) * old_velocity + strength * velocity,
        (1 + strength) * old_velocity - strength * velocity,
    )
    errors = []
    for branch in branches:
        difference = (flow.denoised(latents, branch, sigma) - x0).flatten(1)
        scale = difference.detach().abs().mean(1).clamp(min=1e-5)
        errors.append((difference**2).mean(1) / scale)
    return probability * errors[0] + (1 - probability) * errors[1]


GUIDED_BETA = 1e-3
"""Pull to the reference with which `nft` gained from videos with guidance; with a tenth of it the policy ran away, and
AWM was not tried (docs/results.md)."""


class NFTTrainer(RolloutTrainer):
    """Moves the policy towards its good videos and away from its bad ones, without log-probabilities.

    With `args.loss_type` awm it does so by PPO's clipped ratio, in which the flow-matching error stands for them.
    Videos come from the sampling policy, a slow average of the trained one. The arguments are `RolloutTrainer`'s.

    Raises:
        InputError: with DeepSpeed ZeRO-3 or FSDP, which partition the weights that would be averaged.
    """

    args: NFTConfig

    @staticmethod
    def fits_unguided_velocity(args: NFTConfig) -> bool:
        return args.loss_type == "awm" or args.beta < GUIDED_BETA

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.divided_by:
            raise InputError(f"NFT averages weights, which {self.divided_by} partitions: use ZeRO-2.")
        self.sampling_policy = WeightAverage(self.policy)
        self._old_velocities = torch.empty(0)

    def make_rollout(self, index: int) -> Rollout:
        """Rollout of the sampling policy, and its velocities at every row while its weights are at hand."""
        self.sampling_policy.update(self.sampling_decay(index))
        rollout = super().make_rollout(index)
        noising = Noising.configured(self.args, self.plan)
        rows = torch.arange(len(rollout.prompts) * self.args.num_draws)
        with torch.no_grad(), self.sampling_policy.swapped():
            parts = [
                noising.rows(rollout, part).velocity(self.policy)
                for part in rows.split(self.args.rollout_batch_size)
            ]
        self._old_velocities = torch.cat(parts)
        return rollout

    def sample(self, index: int, prompts: Tensor, judging: Judging) -> Trajectories:
        with self.sampling_policy.swapped():
            return super().sample(index, prompts, judging)

    def sampling_decay(self, index: int) -> float:
        """Decay of the sampling policy before rollout `index`."""
        args = self.args
        return old_policy_decay(index, args.old_decay_flat, args.old_decay_rate, args.old_decay_max)

    def update_loss(
        self, model: torch.nn.Module, rollout: Rollout, rows: Tensor, update: int, micro_batch: int = 0
    ) -> Tensor:
        """The negative-aware flow-matching loss of the noised videos `rows`, or AWM's clipped ratio."""
        args = self.args
        noised = Noising.configured(args, self.plan).rows(rollout, rows)
        velocity = noised.velocity(model)
        advantages, old_velocity = rollout.advantages[noised.indices, 0], self._old_velocities[rows]
        compute = self._awm_loss if args.loss_type == "awm" else self._nft_loss
        loss = compute(noised, velocity, old_velocity, advantages).mean()
        self.observe({"loss/policy": loss, "loss/flow_matching": noised.errors(velocity)})
        if args.measures_divergence:
            divergence = noised.divergence(velocity, self.policy)
            self.observe_kl(0.5 * divergence.detach())
            loss = loss + args.beta * divergence
        return loss

    def _nft_loss(
        self, noised: NoisedVideos, velocity: Tensor, old_velocity: Tensor, advantages: Tensor
    ) -> Tensor:
        probability = optimality(advantages, self.args.advantage_clip)
        self.observe({"optimality/deviation": (probability - 0.5).abs()})
        strength = self.args.guidance_strength
        return nft_loss(
            velocity, old_velocity, noised.latents, noised.x0, noised.sigma, probability, strength
        )

    def _awm_loss(
        self, noised: NoisedVideos, velocity: Tensor, old_velocity: Tensor, advantages: Tensor
    ) -> Tensor:
        args = self.args
        log_ratio = matching_log_ratio(
            noised.errors(velocity), noised.errors(old_velocity), noised.sigma, args.matching_weight
        )
        clipped = advantages.clamp(-args.advantage_clip, args.advantage_clip)
        loss, ratio = clipped_ratio_loss(log_ratio, torch.zeros_like(log_ratio), clipped, args.epsilon)
        self.observe({"ratio": ratio, "clip_ratio": ((ratio - 1).abs() > args.epsilon).float()})
        return loss

    def extra_state(self) -> dict[str, Any]:
        return {**super().extra_state(), "old": self.sampling_policy.average}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        super().load_extra_state(state)
        self.sampling_policy.average = dict(state["old"])
