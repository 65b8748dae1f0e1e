"""Prompts, and a reward that is easily raised."""

from __future__ import annotations

from reward.models.base import RewardModel

PROMPTS = ["a red ball", "a blue cube", "a star", "two rings", "a green cross", "a cat"]


class BrightReward(RewardModel):
    """Likes bright latents; judges latents directly."""

    name = "bright"
    scores_latents = True

    def score_latents(self, latents, conditions):
        return {"overall": latents.mean((1, 2, 3, 4))}

    def score(self, videos, prompts):
        return {"overall": videos.mean((1, 2, 3, 4))}
