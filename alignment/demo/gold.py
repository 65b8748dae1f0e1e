"""Gold scores of the demo's videos, and of PPO's rollouts while it trains."""

from __future__ import annotations

import torch
from torch import Tensor

from alignment.rollouts.rollout import Rollout
from generator.base import VideoGenerator
from generator.world import verify_batch

FPS = 8.0


def gold_scores(videos: Tensor, prompts: list[str], batch_size: int = 256) -> list[float]:
    """Gold scores of the videos, on the GPU where there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scores: list[float] = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        judged = verify_batch(videos[part].to(device), prompts[part], fps=FPS)
        scores += [adherence.score for adherence in judged]
    return scores


class GoldMonitor:
    """The gold score of a part of each rollout, which PPO does not see; it shows over-optimisation."""

    def __init__(self, generator: VideoGenerator, count: int = 16) -> None:
        self.generator = generator
        self.count = count

    def __call__(self, rollout: Rollout) -> dict[str, float]:
        chosen = torch.linspace(0, len(rollout.prompts) - 1, min(self.count, len(rollout.prompts))).long()
        videos = self.generator.decode(rollout.trajectories.final[chosen.to(rollout.rewards.device)])
        gold = gold_scores(videos, [rollout.prompts[i] for i in chosen.tolist()])
        return {"gold": sum(gold) / len(gold)}
