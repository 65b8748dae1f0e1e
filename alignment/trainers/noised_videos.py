"""Methods that judge finished videos and train on them noised anew: no log-probabilities, any sampler."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from alignment.lora import adapters_disabled
from alignment.losses import flow_matching_error
from alignment.rollouts.rollout import Rollout
from alignment.trainers.base_config import NoiseLevelConfig, check
from alignment.trainers.rollout_config import RolloutConfig
from alignment.trainers.rollout_trainer import RolloutTrainer
from alignment.trainers.sft_trainer import draw_sigmas
from generator import flow
from generator.conditions import Conditions
from generator.sampling import seeded_noise
from generator.seeds import Stream, example_seeds


@dataclass
class ForwardProcessConfig(RolloutConfig, NoiseLevelConfig):
    """Rollouts of the ODE whose videos are noised anew; a row is one noise draw of a video."""

    num_draws: int = field(
        default=2, metadata={"help": "Draws of noise and noise level that are learnt from, of each video."}
    )
    beta: float = field(
        default=0.0,
        metadata={"help": "Weight of the squared difference of the velocity from the reference's."},
    )

    def __post_init__(self) -> None:
        check(self.num_draws >= 1, "num_draws", self.num_draws, "at least 1")
        super().__post_init__()
        check(self.beta >= 0, "beta", self.beta, "at least 0")

    @property
    def rows_of_a_group(self) -> int:
        return self.num_generations * self.num_draws

    @property
    def row_name(self) -> str:
        return "noise draws"


@dataclass
class NoisedRows:
    """Some videos of a rollout, noised; tensors `[rows, …]`.

    Attributes:
        members: index in the rollout.
        x0, noise, latents: clean, noise, and their mixture at `sigma`.
        sigma: noise levels.
        conditions: of the prompts.
    """

    members: Tensor
    x0: Tensor
    noise: Tensor
    latents: Tensor
    sigma: Tensor
    conditions: Conditions


class ForwardProcessTrainer(RolloutTrainer):
    """`RolloutTrainer` whose methods say in `_noised_loss` what is learnt from noised videos."""

    args: ForwardProcessConfig

    def _rows_loss(
        self, model: torch.nn.Module, rollout: Rollout, rows: Tensor, update: int, place: int
    ) -> Tensor:
        noised = self._noised(rollout, rows // self.args.num_draws, rows % self.args.num_draws)
        velocity = self.generator.velocity(noised.latents, noised.sigma, noised.conditions, model)
        loss = self._noised_loss(rollout, noised, velocity, rows)
        self.observe({"loss/policy": loss, "loss/flow_matching": self._error(velocity, noised)})
        if self.args.beta > 0 or self.args.target_kl is not None:
            divergence = ((velocity - self._reference_velocity(noised)) ** 2).mean()
            kl = 0.5 * divergence.detach()
            self.observe({"kl": kl})
            self._stop_above_target_kl(self.accelerator.reduce(kl, reduction="mean"))
            loss = loss + self.args.beta * divergence
        return loss

    def _noised_loss(self, rollout: Rollout, noised: NoisedRows, velocity: Tensor, rows: Tensor) -> Tensor:
        """The loss (a scalar) of the rows `rows`, whose noised videos have the predicted `velocity`."""
        raise NotImplementedError

    def _noised(
        self, rollout: Rollout, members: Tensor, draws: Tensor, noise_of: Tensor | None = None
    ) -> NoisedRows:
        """Videos `members` `[rows]` with the noise of their `draws` `[rows]`.

        Args:
            noise_of: `[rows]`, whose noise is taken, where videos are compared under the same noise; their own
                where None.
        """
        args, final = self.args, rollout.trajectories.final
        owners = members if noise_of is None else noise_of
        count = len(rollout.prompts)
        keys = torch.stack([owners.cpu() + args.process_index * count, draws.cpu()], dim=1)
        seeds = example_seeds(args.seed, Stream.LEVELS, rollout.index, rows=keys)
        x0 = final[members]
        noise = seeded_noise(seeds, final.shape[1:]).to(final)
        shift = self.generator.defaults.shift if args.shift is None else args.shift
        sigma = draw_sigmas(seeds, shift, args.logit_mean, args.logit_std, args.uniform_share).to(final)
        prompts = self.prompt_rows[rollout.rows[members.cpu()]]
        conditions = self.conditions_of(self.conditions, prompts)
        return NoisedRows(members, x0, noise, flow.interpolate(x0, noise, sigma), sigma, conditions)

    @torch.no_grad()
    def _reference_velocity(self, noised: NoisedRows) -> Tensor:
        with adapters_disabled(self.policy):
            return self.generator.velocity(noised.latents, noised.sigma, noised.conditions, self.policy)

    @staticmethod
    def _error(velocity: Tensor, noised: NoisedRows) -> Tensor:
        return flow_matching_error(velocity, noised.x0, noised.noise)
