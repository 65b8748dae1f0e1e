"""Rewards on the command line as a forecast of memory sees them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from alignment.memory.reward_forecast import JudgingMemory, judging_memory
from alignment.memory.trained_rewards import TrainedReward, total_bytes, trained_rewards
from alignment.memory.work import Work
from reward.models.named import registry
from reward.models.named.entry import RewardRequest
from reward.models.storage import CONFIG_NAME, reward_folder


@dataclass(frozen=True)
class Rewards:
    """Reward models on the GPU that is planned for.

    Attributes:
        weight_bytes: of all of them.
        gradients: whether all pass gradients to pixels or latents.
        num_frames: frames that are decoded for rewards on pixels; None for all.
        requests: the rewards by name, for what they need beside their weights.
        trained: the trained models, for the same.
        judges_pixels: whether some reward judges decoded videos.
    """

    weight_bytes: int = 0
    gradients: bool = False
    num_frames: int | None = None
    requests: tuple[RewardRequest, ...] = ()
    trained: tuple[TrainedReward, ...] = ()
    judges_pixels: bool = True

    def judging(self, work: Work, fps: float) -> list[tuple[str, JudgingMemory]]:
        """Name and memory beside the weights of each reward that judges a video of the work."""
        decoded = self.num_frames if work.method == "backprop" and self.num_frames else work.num_frames
        size = min(decoded, work.num_frames), work.height, work.width
        whole = work.num_frames, work.height, work.width
        return [
            *((request.name, judging_memory(request, *size, fps)) for request in self.requests),
            *(
                (each.name, each.judging(*(whole if each.judges_latents else size), fps))
                for each in self.trained
            ),
        ]

    @property
    def unmeasured(self) -> set[str]:
        """Names of trained models of whose judging there is no forecast."""
        return {each.name for each in self.trained if not each.is_forecast}

    def of(self, work: Work, fps: float) -> Work:
        """The work with these rewards: their weights, and what judging a video needs.

        Without gradients one reward judges after the other. With them, rewards on pixels are computed again one by one
        in the backward pass, and those on latents keep their activations.
        """
        judged = [memory for _, memory in self.judging(work, fps)]
        on_latents = sum(each.gradients for each in judged if each.of_latents)
        on_pixels = max((each.gradients for each in judged if not each.of_latents), default=0)
        return replace(
            work,
            reward_bytes=self.weight_bytes,
            reward_num_frames=self.num_frames,
            judging_bytes=max((each.scoring for each in judged), default=0),
            judging_gradient_bytes=on_latents + on_pixels,
            judges_pixels=self.judges_pixels,
        )


def reward_members(name: str) -> list[str]:
    """The rewards that a word of `--reward` names: itself, or those with commas between them (`reward.load_reward`)."""
    if name.startswith(("http://", "https://")) or Path(name).is_dir() or registry.find(name) is not None:
        return [name]
    return [part.strip() for part in name.split(",") if part.strip()]


def is_trained(name: str) -> bool:
    """Returns whether `name` is a trained reward model that comes with the package, or the folder of one."""
    return registry.find(name) is None and (reward_folder(name) / CONFIG_NAME).is_file()


def asked_rewards(names: Sequence[str], num_frames: int | None = None) -> Rewards:
    """Rewards by name, each repository of weights once, as processes share them, and trained ones; what services and
    functions take is not known here.

    Args:
        names: as `--reward` takes them.
        num_frames: that are decoded with gradients; None for all.

    Raises:
        InputError: a name or an option is wrong, or a trained model or the model below it cannot be read.
    """
    groups = [reward_members(name) for name in names]
    every = [name for group in groups for name in group]
    requests = [registry.parse(name) for name in every if registry.find(name) is not None]
    sizes = {source.repository: source.gigabytes for each in requests for source in each.entry.weights}
    trained = [trained_rewards([name for name in group if is_trained(name)]) for group in groups]
    models = tuple(model for group in trained for model in group)
    passing = [request.entry.gradients for request in requests] + [model.judges_latents for model in models]
    known = all(is_trained(name) or registry.find(name) is not None for name in every)
    return Rewards(
        weight_bytes=round(sum(sizes.values()) * 1e9) + sum(total_bytes(group) for group in trained),
        gradients=bool(passing) and known and all(passing),
        num_frames=num_frames,
        requests=tuple(requests),
        trained=models,
        judges_pixels=not models or not all(is_trained(name) for name in every) or not all(passing),
    )
