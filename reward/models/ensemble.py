"""Several reward models as one: their mean is the score, their disagreement its uncertainty.

Reward models trained from different seeds agree where the rankings say what is better and disagree where they do
not, above all on the videos that an optimised policy invents. Taking some of the disagreement from the score keeps
a policy from exploiting single members (arXiv 2310.02743, section 3: uncertainty-weighted optimisation).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generator.base import VideoGenerator
from generator.inputs.conditions import Conditions
from generator.one_or_several import as_list
from generator.output import InputError, write_json
from generator.passwords import without_passwords
from reward.models.base import RewardModel, Scores
from reward.models.latent import LatentRewardModel
from reward.models.storage import CONFIG_NAME, read_reward_config

MODEL_TYPE = "ensemble"
MEMBER = "member"


class EnsembleRewardModel(RewardModel):
    """The mean score of several reward models.

    Args:
        members: at least two, with the same dimensions.
        name: what it was loaded from.
        pessimism: how many standard deviations of the members are taken from the mean.

    Raises:
        InputError: there are fewer than two members, or their dimensions differ.
    """

    names_dimensions = True

    def __init__(
        self, members: Sequence[RewardModel], name: str = "ensemble", pessimism: float = 0.0
    ) -> None:
        if len(members) < 2:
            raise InputError(f"An ensemble needs at least 2 reward models, but {len(members)} was given.")
        different = [member for member in members if set(member.dimensions) != set(members[0].dimensions)]
        if different:
            raise InputError(
                f"The reward model {different[0].name!r} has the dimensions {', '.join(different[0].dimensions)}, but "
                f"{members[0].name!r} has {', '.join(members[0].dimensions)}: members of an ensemble need the same."
            )
        self.members = list(members)
        self.name = without_passwords(name)
        self.pessimism = pessimism
        self.dimensions = members[0].dimensions
        self.scores_latents = all(member.scores_latents for member in members)
        self.scores_noisy_latents = all(member.scores_noisy_latents for member in members)
        self.temperature: dict[str, float] = {}
        self.tie_threshold: dict[str, float] = {}

    def eval(self) -> EnsembleRewardModel:
        """Puts all members into evaluation mode."""
        for member in self.members:
            if isinstance(member, torch.nn.Module):
                member.eval()
        return self

    def _shared(self) -> list[LatentRewardModel]:
        """The members where one pass of a common trunk serves them all, else none."""
        latent = [member for member in self.members if isinstance(member, LatentRewardModel)]
        if len(latent) < len(self.members) or any(member.config.trains_trunk for member in latent):
            return []
        alike = (
            "num_blocks",
            "architecture",
            "sigmas",
            "implicit_evidence",
            "evidence_sigmas",
            "evidence_draws",
        )
        keys = [
            (id(member.generator), member.dimensions, *(getattr(member.config, name) for name in alike))
            for member in latent
        ]
        return latent if len(set(keys)) == 1 else []

    def _reduce(self, parts: Sequence[Scores]) -> Scores:
        stacked = self._stacked(parts)
        return {
            name: value.mean(0) - (self.pessimism * value.std(0) if self.pessimism else 0)
            for name, value in stacked.items()
        }

    def _of_latents(self, latents: Tensor, conditions: Conditions) -> list[Scores]:
        shared = self._shared()
        if not shared:
            return [member.score_latents(latents, conditions) for member in self.members]
        with torch.set_grad_enabled(torch.is_grad_enabled() and latents.requires_grad):
            features = shared[0].features(latents, conditions)
            return [member.score_features(features) for member in shared]

    def video_size(self) -> dict[str, float] | None:
        """The size that the first member wants."""
        return self.members[0].video_size()

    def score_latents(self, latents: Tensor, conditions: Conditions) -> Scores:
        """Mean scores `[batch]` of normalised latents, differentiable in them; a common trunk runs once."""
        return self._reduce(self._of_latents(latents, conditions))

    def score_noisy_latents(self, latents: Tensor, sigma: Tensor, conditions: Conditions) -> Scores:
        """Mean scores `[batch]` of latents that hold the noise `sigma [batch]`."""
        parts = [member.score_noisy_latents(latents, sigma, conditions) for member in self.members]
        return self._reduce(parts)

    def set_frame_rate(self, fps: float) -> None:
        """Tells all members."""
        for member in self.members:
            member.set_frame_rate(fps)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        for member in self.members:
            member.check_prompts(prompts)

    def score(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        """Mean scores `[batch]` of videos `[batch, 3, frames, height, width]` in [-1, 1]."""
        prompts = as_list(prompts)
        return self._reduce(self._of_videos(videos, prompts))

    @torch.no_grad()
    def _of_videos(self, videos: Tensor, prompts: Sequence[str], batch_size: int = 16) -> list[Scores]:
        shared = self._shared()
        if not shared:
            return [member.score(videos, prompts) for member in self.members]
        found: list[list[Scores]] = []
        for latents, conditions in shared[0].batches(videos, prompts, batch_size):
            found.append(self._of_latents(latents, conditions))
        return [
            {name: torch.cat([batch[n][name].float().cpu() for batch in found]) for name in self.dimensions}
            for n in range(len(self.members))
        ]

    def uncertainty(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        """Standard deviation `[batch]` of the members' scores."""
        prompts = as_list(prompts)
        return self._spread(self._of_videos(videos, prompts))

    @torch.no_grad()
    def uncertainty_of_latents(self, latents: Tensor, conditions: Conditions) -> Scores:
        """Standard deviation `[batch]` of the members' scores of latents."""
        return self._spread(self._of_latents(latents, conditions))

    def _spread(self, parts: Sequence[Scores]) -> Scores:
        return {name: value.std(0) for name, value in self._stacked(parts).items()}

    def _stacked(self, parts: Sequence[Scores]) -> Scores:
        """Scores `[members, batch]`; what a user's function scores is known only now.

        Raises:
            InputError: the members scored different dimensions.
        """
        for member, part in zip(self.members, parts):
            if set(part) != set(parts[0]):
                raise InputError(
                    f"{member.name!r} scores {', '.join(part)}, but {self.members[0].name!r} scores "
                    f"{', '.join(parts[0])}: members of an ensemble need the same dimensions."
                )
        return {name: torch.stack([part[name] for part in parts]) for name in parts[0]}

    def record(self) -> dict[str, Any]:
        """The records of all members."""
        return {"name": self.name, "members": [member.record() for member in self.members]}

    def reads_latents_of(self, generator: VideoGenerator) -> bool:
        """Returns whether all members understand the latents of `generator`."""
        return all(member.reads_latents_of(generator) for member in self.members)

    def check_generator(self, generator: VideoGenerator) -> None:
        """Raises `InputError` unless all members understand the latents of `generator`."""
        for member in self.members:
            member.check_generator(generator)

    def save_pretrained(self, path: str | Path) -> None:
        """Writes each member into a folder of its own, and their list."""
        path = Path(path)
        names = [f"{MEMBER}-{number}" for number in range(len(self.members))]
        for name, member in zip(names, self.members):
            assert isinstance(member, LatentRewardModel)
            member.save_pretrained(path / name)
        document: dict[str, Any] = {
            "model_type": MODEL_TYPE,
            "members": names,
            "pessimism": self.pessimism,
            "temperature": self.temperature,
            "tie_threshold": self.tie_threshold,
        }
        write_json(path / CONFIG_NAME, document)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        device: str | torch.device | None = None,
        generator: VideoGenerator | None = None,
    ) -> EnsembleRewardModel:
        """Loads a saved ensemble; members on a frozen trunk share one generator."""
        path = Path(path)
        document = read_reward_config(path)
        members: list[LatentRewardModel] = []
        for name in document["members"]:
            member = LatentRewardModel.from_pretrained(path / name, device=device, generator=generator)
            generator = generator or member.generator
            members.append(member)
        model = cls(members, str(path), float(document.get("pessimism", 0.0)))
        model.temperature = dict(document.get("temperature", {}))
        model.tie_threshold = dict(document.get("tie_threshold", {}))
        return model
