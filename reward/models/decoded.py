"""`DecodedVideos`: a reward model on latents that judges the videos of other generators."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from generator.base import VideoGenerator
from generator.video import resample
from reward.models.base import RewardModel, Scores

logger = logging.getLogger(__name__)


class DecodedVideos(RewardModel):
    """Judges decoded videos by a reward model on latents, which encodes them and their prompts itself, without
    gradients.

    Args:
        reward: a `LatentRewardModel`, or an ensemble with one.
    """

    names_dimensions = True

    def __init__(self, reward: RewardModel) -> None:
        self.reward = reward
        self.name, self.dimensions, self.scale = reward.name, reward.dimensions, reward.scale

    def score(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        """Scores `[batch]` of videos `[batch, 3, frames, height, width]` in [-1, 1], fitted to the size and frame rate
        that the model was trained on, as `read_video` does with a file."""
        return self.reward.score(self._fitted(videos), prompts)

    def uncertainty(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        """Standard deviation `[batch]` of each score, as the model has it."""
        return self.reward.uncertainty(self._fitted(videos), prompts)

    def _fitted(self, videos: Tensor) -> Tensor:
        size = self.video_size()
        if size is None:
            return videos
        frames, height, width = (int(size[name]) for name in ("num_frames", "height", "width"))
        rate = size["fps"]
        fps = self.frame_rate or rate
        if videos.shape[2:] == (frames, height, width) and fps == rate:
            return videos
        return torch.stack([resample(video, fps, frames, height, width, rate) for video in videos])

    def set_frame_rate(self, fps: float) -> None:
        """Tells the model."""
        self.frame_rate = fps
        self.reward.set_frame_rate(fps)

    def check_prompts(self, prompts: Sequence[str]) -> None:
        """Raises `InputError` where the model cannot judge videos of some prompt."""
        self.reward.check_prompts(prompts)

    def record(self) -> dict[str, Any]:
        """Facts of the model, and that it judges decoded videos."""
        return {**self.reward.record(), "judges": "decoded videos"}

    def video_size(self) -> dict[str, float] | None:
        """The size that the model wants."""
        return self.reward.video_size()


def judge_for(reward: RewardModel, generator: VideoGenerator) -> RewardModel:
    """Returns what judges the videos of `generator`: `reward` itself, or where it reads other latents `DecodedVideos`,
    with a warning."""
    if reward.reads_latents_of(generator):
        return reward
    logger.warning(
        "The reward %r was trained on latents of another autoencoder or text encoder than %r has: it judges decoded "
        "videos, which it encodes anew, without gradients. A reward model trained for %r judges its latents.",
        reward.name, generator.name, generator.name,
    )  # fmt: skip
    return DecodedVideos(reward)
