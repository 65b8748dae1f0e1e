"""DiffusionNFT (Zheng et al. 2025, arXiv 2509.16117): policy optimisation on the forward process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from alignment.rollouts.rollout import Rollout
from alignment.trainers.nft_config import NFTConfig
from alignment.trainers.noised_videos import ForwardProcessTrainer, NoisedRows
from generator import flow
from generator.conditions import Conditions
from generator.output import InputError
from generator.sampling import Trajectories


def optimality(advantages: Tensor, clip: float) -> Tensor:
    """Probability (1 + clip(A / c, −1, 1)) / 2 that a video is a good one (eq. 12)."""
    return 0.5 + 0.5 * (advantages / clip).clamp(-1, 1)


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


class NFTTrainer(ForwardProcessTrainer):
    """Moves the policy towards its good videos and away from its bad ones, without log-probabilities.

    Videos come from the sampling policy, a slow average of the trained one. The arguments are
    `RolloutTrainer`'s.

    Raises:
        InputError: with DeepSpeed ZeRO-3 or FSDP, which partition the weights that would be averaged.
    """

    args: NFTConfig

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.divided_by:
            raise InputError(f"NFT averages weights, which {self.divided_by} partitions: use ZeRO-2.")
        trained = {name: p for name, p in self.policy.named_parameters() if p.requires_grad}
        self._live = trained
        self._old = {name: p.detach().clone() for name, p in trained.items()}

    def _sample(self, index: int, members: Tensor, conditions: Conditions) -> Trajectories:
        self._update_old(index)
        with self._sampling_policy():
            return super()._sample(index, members, conditions)

    def _finish_rollout(self, rollout: Rollout) -> None:
        """The sampling policy's velocities at every row, while its weights are at hand."""
        args = self.args
        count = len(rollout.prompts) * args.num_draws
        rows = torch.arange(count)
        parts = []
        with torch.no_grad(), self._sampling_policy():
            for chosen in rows.split(args.rollout_batch_size):
                noised = self._noised(rollout, chosen // args.num_draws, chosen % args.num_draws)
                parts.append(
                    self.generator.velocity(noised.latents, noised.sigma, noised.conditions, self.policy)
                )
        self._old_velocities = torch.cat(parts)

    def _noised_loss(self, rollout: Rollout, noised: NoisedRows, velocity: Tensor, rows: Tensor) -> Tensor:
        probability = optimality(rollout.advantages[noised.members, 0], self.args.advantage_clip)
        loss = nft_loss(
            velocity,
            self._old_velocities[rows],
            noised.latents,
            noised.x0,
            noised.sigma,
            probability,
            self.args.guidance_strength,
        )
        self.observe({"optimality/deviation": (probability - 0.5).abs()})
        return loss.mean()

    # The sampling policy

    @torch.no_grad()
    def _update_old(self, rollout: int) -> None:
        decay = min(self.args.old_decay_rate * rollout, self.args.old_decay_max)
        for name, parameter in self._live.items():
            # An engine may have brought the live weights, but not these, to bfloat16.
            old = self._old[name].to(parameter.device)
            self._old[name] = old.lerp(parameter.to(old.dtype), 1 - decay)

    @contextmanager
    def _sampling_policy(self) -> Iterator[None]:
        """Inside, the weights are the sampling policy's; afterwards they are what they were, bit for bit."""
        kept = {name: parameter.detach().clone() for name, parameter in self._live.items()}
        self._copy(self._old)
        try:
            yield
        finally:
            self._copy(kept)

    @torch.no_grad()
    def _copy(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self._live.items():
            parameter.copy_(values[name])

    def extra_state(self) -> dict[str, Any]:
        return {**super().extra_state(), "old": self._old}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        super().load_extra_state(state)
        self._old = dict(state["old"])
