"""Held-out prompts: the same videos, from the same noise, judged again and again while a policy is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import Dataset

from alignment.rollouts.reward_mixture import RewardMixture
from alignment.rollouts.rollout import ode_samples
from alignment.rollouts.sampling_plan import SamplingPlan
from generator.output import InputError
from generator.seeds import Stream, example_seeds
from reward.models.base import WorldReward


@dataclass
class EvaluationSampling:
    """Sampling of held-out videos; see `alignment.rollouts.sampling_plan.SamplingSettings`."""

    num_frames: int | None
    height: int | None
    width: int | None
    num_inference_steps: int
    guidance_scale: float | None
    guidance_scale_2: float | None
    negative_prompt: str


def gold_of_world(prompts: Sequence[str]) -> RewardMixture | None:
    """The verifier of the built-in world, where it can judge videos of all prompts; else None."""
    gold = WorldReward()
    try:
        gold.check_prompts(prompts)
    except InputError:
        return None
    return RewardMixture([gold])


class HeldOutPrompts(Dataset):
    """Measures a policy on prompts that it does not learn from.

    Video v (of prompt v // `num_videos`) has noise of its own, which depends on v alone: neither on the run's seed nor
    on the number of processes. Nothing here draws from a global random state, so a training is the same with it.

    Args:
        plan: of the prompts.
        rewards: judge the videos as in training, but their weighted sum is never normalised.
        num_videos: videos of each prompt.
        judge_batch_size: videos judged together.
    """

    def __init__(
        self, plan: SamplingPlan, rewards: RewardMixture, num_videos: int, judge_batch_size: int
    ) -> None:
        self.plan, self.rewards = plan, rewards
        self.num_videos, self.judge_batch_size = num_videos, judge_batch_size
        self.gold = gold_of_world(plan.prompts)
        worlds = [i for i, reward in enumerate(rewards.rewards) if isinstance(reward, WorldReward)]
        sees_all = rewards.num_frames is None and rewards.scale == 1
        self._gold_among_rewards = worlds[0] if worlds and sees_all and self.gold is not None else None
        rewards.check_prompts(plan.prompts)

    def __len__(self) -> int:
        return len(self.plan.prompts) * self.num_videos

    def __getitem__(self, video: int) -> int:
        return video

    def share(self, world_size: int, process_index: int) -> Tensor:
        """Numbers of the videos of one process; each has as many, so the last ones are repeated where need be."""
        each = -(-len(self) // world_size)
        return (torch.arange(each * world_size) % len(self))[process_index * each :][:each]

    def known_metrics(self) -> list[str] | None:
        """Names of what `measure` gives; None where some reward names its scores only when it judges."""
        if not all(reward.names_dimensions for reward in self.rewards.rewards):
            return None
        alone = len(self.rewards.rewards) == 1
        scores = [
            f"reward/{name}" if alone else f"reward/{label}/{name}"
            for label, reward in zip(self.rewards.labels, self.rewards.rewards)
            for name in reward.dimensions
        ]
        return ["reward", *(["gold"] if self.gold is not None else []), *scores]

    @torch.no_grad()
    def measure(
        self,
        policy: torch.nn.Module,
        world_size: int = 1,
        process_index: int = 0,
        gather: Callable[[Tensor], Tensor] = lambda values: values,
        advance: Callable[[int], None] = lambda videos: None,
    ) -> dict[str, float]:
        """Means over all videos: `reward`, the weighted sum; `reward/…`, each score; `gold`, in the built-in world.

        Args:
            policy: makes the videos; every process calls it equally often.
            gather: concatenates the rows of a tensor over processes, in their order.
            advance: is given the number of videos after each batch.
        """
        videos = self.share(world_size, process_index)
        parts: list[dict[str, Tensor]] = []
        for batch in videos.split(self.plan.batch_size):
            parts.append(self._judged(policy, batch))
            advance(len(batch))
        names = list(parts[0])
        values = torch.stack([torch.cat([part[name] for part in parts]).float() for name in names], dim=1)
        means = gather(values)[: len(self)].double().mean(0)
        return dict(zip(names, means.tolist(), strict=True))

    def _judged(self, policy: torch.nn.Module, videos: Tensor) -> dict[str, Tensor]:
        """Scores `[batch]` by name of the videos `videos`."""
        plan, prompts = self.plan, videos // self.num_videos
        seeds = example_seeds(0, Stream.EVALUATION, rows=videos[:, None])
        plan.prepare(prompts)
        latents = ode_samples(plan, policy, prompts, seeds).final
        conditions, texts = plan.text_conditions_of(prompts), plan.texts(prompts)
        rewards, scores = self.rewards.judge(
            plan.generator, latents, conditions, texts, self.judge_batch_size,
            plan.pictures(prompts, self.rewards),
        )  # fmt: skip
        total = torch.einsum("m, m b -> b", self.rewards.weights.to(rewards), rewards)
        judged = {"reward": total, **{f"reward/{name}": value for name, value in scores.items()}}
        if self._gold_among_rewards is not None:
            judged["gold"] = rewards[self._gold_among_rewards]
        elif self.gold is not None:
            gold, _ = self.gold.judge(plan.generator, latents, conditions, texts, self.judge_batch_size)
            judged["gold"] = gold[0]
        return {name: value.to(latents.device) for name, value in judged.items()}
