"""Several reward models as one reward: each judged, logged, made comparable, weighted and added."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from alignment.rollouts.advantages import mean_and_std
from alignment.rollouts.judge import decode_for_reward
from generator.base import VideoGenerator
from generator.inputs.conditions import Conditions, select
from generator.one_or_several import as_list
from generator.output import InputError
from reward.measures import motion_and_flicker
from reward.models.base import score_with_images
from reward.models.decoded import judge_for

if TYPE_CHECKING:
    from reward.models.base import RewardModel

logger = logging.getLogger(__name__)

MOST_UNEQUAL = 5.0
"""Ratio of two rewards' weighted ranges above which the smaller one hardly counts."""


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
            advantages instead of rewards (DanceGRPO, arXiv 2505.07818, section 3.3). With `group` and then
            `scale_rewards="global"` this is GDPO (arXiv 2601.05242, eq. 4 to 6).
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


def unequal_ranges(spreads: Mapping[str, float]) -> tuple[str, str, float] | None:
    """Names of the rewards with the largest and the smallest usual range, and how many times the one is the other; None
    where they are of one order."""
    if len(spreads) < 2:
        return None
    large, small = max(spreads, key=spreads.__getitem__), min(spreads, key=spreads.__getitem__)
    if not spreads[small] or spreads[large] <= MOST_UNEQUAL * spreads[small]:
        return None
    return large, small, spreads[large] / spreads[small]


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

    @classmethod
    def for_training(
        cls,
        reward: RewardModel | Sequence[RewardModel],
        args: Any,
        generator: VideoGenerator,
        prompts: list[str],
    ) -> RewardMixture:
        """The mixture that a training's arguments ask for, of one reward or several.

        Raises:
            InputError: as the class; or a reward cannot judge the generator's videos, or one of the prompts.
        """
        mixture = cls(
            reward if isinstance(reward, Sequence) else [reward],
            args.reward_weights,
            args.reward_dimension,
            args.reward_num_frames,
            args.reward_scale,
        )
        mixture.prepare_for(generator)
        mixture.check_prompts(prompts)
        return mixture

    @property
    def takes_images(self) -> bool:
        """Returns whether some model looks at the images that videos begin with."""
        return any(reward.takes_images for reward in self.rewards)

    @property
    def differentiable(self) -> bool:
        """Returns whether every model judges latents and passes gradients."""
        return all(reward.scores_latents for reward in self.rewards)

    @property
    def passes_gradients(self) -> bool:
        """Returns whether every model passes gradients, to latents or to pixels."""
        return all(reward.scores_latents or reward.pixel_gradients for reward in self.rewards)

    @property
    def needs_pixels(self) -> bool:
        """Returns whether some model judges decoded videos."""
        return not self.differentiable

    def warn_of_scales(self, normalisation: str = "none") -> None:
        """Warns, once, where rewards whose usual ranges differ much are added as they are."""
        if normalisation != "none":
            return
        spreads = {
            label: abs(weight) * (reward.scale[1] - reward.scale[0])
            for reward, label, weight in zip(self.rewards, self.labels, self.weights.tolist())
            if reward.scale is not None and weight
        }
        unequal = unequal_ranges(spreads)
        if unequal is not None:
            large, small, times = unequal
            logger.warning(
                f"The rewards are added as they are, and the usual range of {large} times its weight is {times:.0f} "
                f"times that of {small}, which then hardly counts: set --reward_normalisation group (or rollout), or "
                "other --reward_weights."
            )

    @property
    def noise_conditioned(self) -> bool:
        """Returns whether every model judges noisy latents too."""
        return all(reward.scores_noisy_latents for reward in self.rewards)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raises `InputError` where a model cannot judge videos of some prompt."""
        for reward in self.rewards:
            reward.check_prompts(prompts)

    def check_groups(self, batch_size: int, group_size: int, batch_name: str, group_name: str) -> None:
        """Raises `InputError` where a model compares the videos of a group, but a batch would cut groups in two.

        Args:
            batch_size: videos that are judged in one call, group after group.
            group_size: videos of a group.
            batch_name, group_name: of these settings, for the message.
        """
        comparing = [reward.name for reward in self.rewards if reward.compares_groups]
        if comparing and batch_size % group_size:
            raise InputError(
                f"The reward {comparing[0]!r} compares the {group_size} videos of a prompt, but {batch_name} is "
                f"{batch_size}, which would part them: give a multiple of {group_name}."
            )

    def prepare_for(self, generator: VideoGenerator) -> None:
        """Tells all models the frame rate of the generator; one that reads other latents judges decoded videos from
        here on, see `judge_for`.

        Raises:
            InputError: a model does not fit the generator.
        """
        for index, reward in enumerate(self.rewards):
            self.rewards[index] = judge = judge_for(reward, generator)
            judge.set_frame_rate(generator.defaults.fps)
            judge.check_generator(generator)

    def judge(
        self,
        generator: VideoGenerator,
        latents: Tensor,
        conditions: Conditions,
        prompts: Sequence[str],
        batch_size: int,
        images: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Rewards `[models, batch]` and all scores `[batch]` by name, `videos/…` beside them for what is not a score;
        videos are decoded at most once, and only if some model needs pixels. `images` `[batch, 3, height, width]`, with
        which videos begin, are for models that look at them."""
        prompts = as_list(prompts)
        found: list[dict[str, list[Tensor]]] = [{} for _ in self.rewards]
        watched: dict[str, list[Tensor]] = {}
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
                            for name, value in self._watched(videos).items():
                                watched.setdefault(name, []).append(value.float().to(latents.device))
                        shown = None if images is None else images[rows]
                        scores = score_with_images(reward, videos, prompts[rows], shown)
                    for name, value in scores.items():
                        parts.setdefault(name, []).append(value.float().to(latents.device))
        rewards: list[Tensor] = []
        named: dict[str, Tensor] = {}
        for reward, label, parts in zip(self.rewards, self.labels, found):
            joined = {name: torch.cat(values) for name, values in parts.items()}
            rewards.append(chosen_score(reward, joined, self.dimension))
            alone = len(self.rewards) == 1
            named |= {name if alone else f"{label}/{name}": value for name, value in joined.items()}
        return torch.stack(rewards), named | {name: torch.cat(parts) for name, parts in watched.items()}

    def differentiable_reward(self, latents: Tensor, conditions: Conditions) -> Tensor:
        """The weighted sum `[batch]` of the rewards of latents, with gradients."""
        total = latents.new_zeros(len(latents))
        for reward, weight in zip(self.rewards, self.weights.tolist()):
            scores = reward.score_latents(latents, conditions)
            total = total + weight * chosen_score(reward, scores, self.dimension).to(total.device)
        return total

    def reward_through_pixels(
        self,
        generator: VideoGenerator,
        latents: Tensor,
        conditions: Conditions,
        prompts: Sequence[str],
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum `[batch]` of the rewards with gradients to latents, and values to log by name; videos are
        decoded, as much of them as the rewards are shown, where some model needs pixels."""
        total = latents.new_zeros(len(latents))
        observed: dict[str, Tensor] = {}
        videos: Tensor | None = None
        if self.needs_pixels:
            videos = decode_for_reward(generator, latents, self.num_frames, self.scale, gradients=True)
            observed |= self._watched(videos.detach())
        for reward, weight, label in zip(self.rewards, self.weights.tolist(), self.labels):
            if reward.scores_latents:
                scores = reward.score_latents(latents, conditions)
            else:
                assert videos is not None
                scores = reward.score_pixels(videos, prompts)
            value = chosen_score(reward, scores, self.dimension).to(total.device)
            total = total + weight * value
            if len(self.rewards) > 1:
                observed[f"rewards/{label}/mean"] = value.detach()
        return total, observed

    def _watched(self, videos: Tensor) -> dict[str, Tensor]:
        """Motion and flicker of the judged videos where a reward sees single frames, which look alike in a still and a
        moving video."""
        if videos.shape[2] < 2 or not any(reward.sees_frames for reward in self.rewards):
            return {}
        fps = next((reward.frame_rate for reward in self.rewards if reward.frame_rate), None)
        motion, flicker = motion_and_flicker(videos, fps or 8.0)
        return {"videos/speed": motion, "videos/flicker": flicker}

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
