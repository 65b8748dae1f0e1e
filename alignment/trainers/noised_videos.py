"""Videos of a rollout noised anew, for methods of the forward process: no log-probabilities, any sampler."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignment.lora import adapters_disabled
from alignment.losses import flow_matching_error
from alignment.rollouts.rollout import Rollout
from alignment.rollouts.sampling_plan import SamplingPlan
from alignment.trainers.forward_process_config import ForwardProcessConfig
from alignment.trainers.noise_levels import NoiseLevels
from generator import flow
from generator.base import VideoGenerator
from generator.first_frames import conditioned_velocity
from generator.inputs.conditions import Conditions
from generator.sampling import seeded_noise
from generator.seeds import Stream, example_seeds


@dataclass(frozen=True)
class NoisedVideos:
    """Some videos of a rollout, noised; tensors `[batch, …]`.

    Attributes:
        generator: predicts velocities.
        indices: of the videos in the rollout.
        x0, noise, latents: clean, noise, and their mixture at `sigma`, without the frames that images make known.
        sigma: noise levels.
        conditions: of the prompts.
    """

    generator: VideoGenerator
    indices: Tensor
    x0: Tensor
    noise: Tensor
    latents: Tensor
    sigma: Tensor
    conditions: Conditions

    def velocity(self, model: torch.nn.Module) -> Tensor:
        """Velocities that `model` predicts."""
        return conditioned_velocity(self.generator, self.latents, self.sigma, self.conditions, model)

    @torch.no_grad()
    def reference_velocity(self, policy: torch.nn.Module) -> Tensor:
        """Velocities of the reference: `policy` without its LoRA layers."""
        with adapters_disabled(policy):
            return self.velocity(policy)

    def divergence(self, velocity: Tensor, policy: torch.nn.Module) -> Tensor:
        """Mean squared difference of predicted velocities from the reference's, with a gradient."""
        return ((velocity - self.reference_velocity(policy)) ** 2).mean()

    def errors(self, velocity: Tensor) -> Tensor:
        """Flow-matching errors `[batch]` of predicted velocities."""
        return flow_matching_error(velocity, self.x0, self.noise)


@dataclass(frozen=True)
class Noising:
    """Noise of the videos of rollouts, as a function of seed, rollout, video and draw.

    Attributes:
        plan: that the videos were sampled by.
        levels: distribution of the noise levels.
        num_draws: noise draws of a video; row i of a rollout is draw i % num_draws of video i // num_draws.
        seed, data_parallel_rank: of the run and of the processes that sampled the videos.
    """

    plan: SamplingPlan
    levels: NoiseLevels
    num_draws: int
    seed: int
    data_parallel_rank: int

    @classmethod
    def configured(cls, args: ForwardProcessConfig, plan: SamplingPlan) -> Noising:
        """Noise as a configuration describes it."""
        levels = NoiseLevels.configured(args, plan.generator)
        return cls(plan, levels, args.num_draws, args.seed, args.data_parallel_rank)

    def rows(self, rollout: Rollout, rows: Tensor) -> NoisedVideos:
        """Videos of the rows `rows` `[batch]`."""
        return self.videos(rollout, rows // self.num_draws, rows % self.num_draws)

    def videos(
        self, rollout: Rollout, videos: Tensor, draws: Tensor, noise_of: Tensor | None = None
    ) -> NoisedVideos:
        """Videos `videos` `[batch]` with the noise of their `draws` `[batch]`.

        Args:
            noise_of: `[batch]`, the videos whose noise is taken, where videos are compared under the same noise;
                their own where None.
        """
        final = rollout.trajectories.final
        owners = videos if noise_of is None else noise_of
        first = self.data_parallel_rank * len(rollout.prompts)
        keys = torch.stack([owners.cpu() + first, draws.cpu()], dim=1)
        seeds = example_seeds(self.seed, Stream.LEVELS, rollout.index, rows=keys)
        x0 = self.plan.unknown(final[videos])
        noise = self.plan.unknown(seeded_noise(seeds, final.shape[1:]).to(final))
        sigma = self.levels.draw(seeds).to(final)
        conditions = self.plan.conditions_of(rollout.prompt_indices[videos.cpu()])
        latents = flow.interpolate(x0, noise, sigma)
        return NoisedVideos(self.plan.generator, videos, x0, noise, latents, sigma, conditions)
