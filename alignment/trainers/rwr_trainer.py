"""Reward-weighted regression of a flow model (Peters & Schaal 2007; for diffusion: Lee et al. 2023, arXiv
2302.12192)."""

from __future__ import annotations

import torch
from torch import Tensor

from alignment.rollouts.rollout import Rollout
from alignment.trainers.noised_videos import ForwardProcessTrainer, NoisedRows
from alignment.trainers.rwr_config import RWRConfig


def regression_weights(advantages: Tensor, temperature: float) -> Tensor:
    """softmax(A / τ) in each group `[groups, num_generations]`, times the size of the group: their mean is 1."""
    return torch.softmax(advantages / temperature, dim=1) * advantages.shape[1]


class RWRTrainer(ForwardProcessTrainer):
    """Flow matching on the policy's own videos, in which better videos of a group weigh more.

    The arguments are `RolloutTrainer`'s.
    """

    args: RWRConfig

    def _noised_loss(self, rollout: Rollout, noised: NoisedRows, velocity: Tensor, rows: Tensor) -> Tensor:
        grouped = rollout.advantages.reshape(-1, self.args.num_generations)
        weights = regression_weights(grouped, self.args.temperature).flatten()[noised.members]
        return (weights * self._error(velocity, noised)).mean()
