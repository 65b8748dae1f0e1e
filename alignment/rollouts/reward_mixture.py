"""Several reward models as one reward: each judged, logged, made comparable, weighted and added."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignment.rollouts.advantages import mean_and_std
from alignment.rollouts.judge import decode_for_reward
from generator.base import VideoGenerator
from generator.conditions import Conditions, select
from generator.one_or_several import as_list
from generator.output import InputError

if TYPE_CHECKING:
    from reward.models.base import RewardModel


def mix_rewards(
    rewards: Tensor,
    weights: Tensor,
    normalisation: str,
    reduce_sum: Callable[[Tensor], Tensor] = lambda value: value,
    epsilon: float = 1e-4,
) -> Tensor:
    """The weighted sum `[groups, num_generations]` of several rewards.

    Args:
        rewards: `[models, groups, num_generations]`.
        weights: `[models]`.
        normalisation: `none` adds the rewards as they are; `rollout` first subtracts the mean of all videos
            of that reward and divides by their std (plus ε); `group` does so within each group, which adds
            advantages instead of rewards (DanceGRPO, arXiv 2505.07818, section 3.3).
        reduce_sum: adds a tensor over processes.
    """
    if normalisation == "rollout":
        normalised = []
        for reward in rewards:
            mean, std = mean_and_std(reward, reduce_sum)
            normalised.append((reward - mean) / (std + epsilon))
        rewards = torch.stack(normalised)
    elif normalisation == "group":
        centred = rewards - rewards.mean(2, keepdim=True)
        rewards = centred / (rewards.std(2, correction=0, keepdim=True) + epsilon)
    elif normalisation != "none":
        raise ValueError(f"normalisation is {normalisation!r}, but must be 'none', 'rollout' or 'group'.")
    return torch.einsum("m, m g n -> g n", weights.to(rewards), rewards)


class RewardMixture:
    """Reward models with weights.

    Attributes:
        rewards: the models.
        weights: `[models]`.
        labels: a short name of each, for logs.

    Args:
        dimension: the score of each model that is its reward; where None, `overall`, or the mean of its
            scores.
        num_frames, scale: what models that judge pixels are shown, see `decode_for_reward`.

    Raises:
        InputError: there is no reward, or not one weight a reward.
    """

    def __init__(
        self,
        rewards: Sequence[RewardModel],
        weights: Sequence[float] | None = None,
        dimension: str | None = None,
        num_frames: int | None = None,
        scale: float = 1.0,
    ) -> None:
        self.num_frames, self.scale = num_frames, scale
        if not rewards:
            raise InputError("No reward model was given: give at least one.")
        if weights is not None and len(weights) != len(rewards):
            raise InputError(
                f"{len(weights)} reward_weights were found for {len(rewards)} reward models: give one each."
            )
        self.rewards = list(rewards)
        self.weights = torch.tensor(list(weights) if weights is not None else [1.0] * len(rewards))
        self.dimension = dimension
        for reward in self.rewards:
            if dimension is not None and reward.names_dimensions and dimension not in reward.dimensions:
                raise _no_score(reward, dimension, reward.dimensions)
        names = [Path(reward.name).name or f"reward{i}" for i, reward in enumerate(rewards)]
        self.labels = [
            name if names.count(name) == 1 else f"{name}{index}" for index, name in enumerate(names)
        ]

    @property
    def differentiable(self) -> bool:
        """Returns whether every model judges latents and passes gradients."""
        return all(reward.scores_latents for reward in self.rewards)

    @property
    def noise_conditioned(self) -> bool:
        """Returns whether every model judges noisy latents too."""
        return all(reward.scores_noisy_latents for reward in self.rewards)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raises `InputError` where a model cannot judge videos of some prompt."""
        for reward in self.rewards:
            reward.check_prompts(prompts)

    def check_generator(self, generator: VideoGenerator) -> None:
        """Raises `InputError` where a model does not fit the generator; tells all its frame rate."""
        for reward in self.rewards:
            reward.set_frame_rate(generator.defaults.fps)
            reward.check_generator(generator)

    def judge(
        self,
        generator: VideoGenerator,
        latents: Tensor,
        conditions: Conditions,
        prompts: Sequence[str],
        batch_size: int,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Rewards `[models, batch]` and all scores `[batch]` by name; videos are decoded at most once, and only
        if some model needs pixels."""
        prompts = as_list(prompts)
        found: list[dict[str, list[Tensor]]] = [{} for _ in self.rewards]
        with torch.no_grad():
            for start in range(0, len(latents), batch_size):
                rows = slice(start, start + batch_size)
                videos: Tensor | None = None
                for reward, parts in zip(self.rewards, found):
                    if reward.scores_latents:
                        scores = reward.score_latents(latents[rows], select(conditions, rows))
                    else:
                        if videos is None:
                            videos = decode_for_reward(generator, latents[rows], self.num_frames, self.scale)
                        scores = reward.score(videos, prompts[rows])
                    for name, value in scores.items():
                        parts.setdefault(name, []).append(value.float().to(latents.device))
        rewards: list[Tensor] = []
        named: dict[str, Tensor] = {}
        for reward, label, parts in zip(self.rewards, self.labels, found):
            joined = {name: torch.cat(values) for name, values in parts.items()}
            rewards.append(chosen_score(reward, joined, self.dimension))
            alone = len(self.rewards) == 1
            named |= {name if alone else f"{label}/{name}": value for name, value in joined.items()}
        return torch.stack(rewards), named

    def differentiable_reward(self, latents: Tensor, conditions: Conditions) -> Tensor:
        """The weighted sum `[batch]` of the rewards of latents, with gradients."""
        total = latents.new_zeros(len(latents))
        for reward, weight in zip(self.rewards, self.weights.tolist()):
            scores = reward.score_latents(latents, conditions)
            total = total + weight * chosen_score(reward, scores, self.dimension).to(total.device)
        return total

    def differentiable_noisy_reward(self, latents: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """The weighted sum `[batch]` of the rewards of latents that hold the noise `sigma [batch]`."""
        total = latents.new_zeros(len(latents))
        for reward, weight in zip(self.rewards, self.weights.tolist()):
            scores = reward.score_noisy_latents(latents, sigma, conditions)
            total = total + weight * chosen_score(reward, scores, self.dimension).to(total.device)
        return total


def _no_score(reward: RewardModel, dimension: str, known: Iterable[str]) -> InputError:
    return InputError(
        f"The reward {reward.name!r} has no score {dimension!r}: set reward_dimension to one of {', '.join(known)}."
    )


def chosen_score(reward: RewardModel, scores: dict[str, Tensor], dimension: str | None) -> Tensor:
    """The score of `dimension`; where None, `overall`, or the mean of all scores.

    Raises:
        InputError: there is no such score, or it is not a finite number.
    """
    if dimension is not None and dimension not in scores:
        raise _no_score(reward, dimension, scores)
    chosen = dimension or ("overall" if "overall" in scores else None)
    rewards = scores[chosen] if chosen else torch.stack(list(scores.values())).mean(0)
    if not torch.isfinite(rewards).all():
        raise InputError(
            f"The reward {reward.name!r} gave a score that is not a finite number: check its weights."
        )
    return rewards
