"""Reward-weighted regression of a flow model (Peters & Schaal 2007; for diffusion: Lee et al. 2023, arXiv
2302.12192)."""

from __future__ import annotations

import torch
from torch import Tensor

from alignment.rollouts.rollout import Rollout
from alignment.trainers.noised_videos import Noising
from alignment.trainers.rollout_trainer import RolloutTrainer
from alignment.trainers.rwr_config import RWRConfig


def regression_weights(advantages: Tensor, temperature: float) -> Tensor:
    """softmax(A / τ) in each group `[groups, num_generations]`, times the size of the group: their mean is 1."""
    return torch.softmax(advantages / temperature, dim=1) * advantages.shape[1]


class RWRTrainer(RolloutTrainer):
    """Flow matching on the policy's own videos, in which better videos of a group weigh more.

    The arguments are `RolloutTrainer`'s.
    """

    args: RWRConfig

    @staticmethod
    def fits_unguided_velocity(args: RWRConfig) -> bool:
        return True

    def update_loss(
        self, model: torch.nn.Module, rollout: Rollout, rows: Tensor, update: int, micro_batch: int = 0
    ) -> Tensor:
        """The weighted flow-matching error of the noised videos `rows`."""
        args = self.args
        noised = Noising.configured(args, self.plan).rows(rollout, rows)
        velocity = noised.velocity(model)
        errors = noised.errors(velocity)
        grouped = rollout.advantages.reshape(-1, args.num_generations)
        weights = regression_weights(grouped, args.temperature).flatten()[noised.indices]
        loss = (weights * errors).mean()
        self.observe({"loss/policy": loss, "loss/flow_matching": errors})
        if args.measures_divergence:
            divergence = noised.divergence(velocity, self.policy)
            self.observe_kl(0.5 * divergence.detach())
            loss = loss + args.beta * divergence
        return loss
