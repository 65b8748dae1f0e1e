"""Rewards without weights: the world's verifier, motion with a target, and steadiness."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from generator.one_or_several import as_list
from generator.output import InputError
from reward.measures import motion_and_flicker, temporal_flickering
from reward.models.base import RewardModel, Scores, WorldReward
from reward.models.named.entry import RewardRequest
from reward.models.named.places import identify

UNUSED = ("frames", "reduce", "batch_size", "dtype")
SPEED_FPS = 8.0
"""Frames a second that motion is measured with where nobody says them."""


def load_world(request: RewardRequest) -> RewardModel:
    """The gold score of the built-in world."""
    request.refuse(*UNUSED, "scale")
    return identify(WorldReward(), request)


def load_motion(request: RewardRequest) -> RewardModel:
    """Motion with the target of the request.

    Raises:
        InputError: there is no target above 0.
    """
    request.refuse(*UNUSED)
    target = request.options.get("target")
    if target is None or target <= 0:
        raise InputError(
            "The reward motion needs a target above 0, in shorter sides of the picture a second: write "
            "motion:target=0.2; `vidalign evaluate` measures what videos have."
        )
    model = MotionReward(target, request.options.get("form", "near"), request.options.get("scale", 1.0))
    return identify(model, request, form=model.form)


def load_flicker(request: RewardRequest) -> RewardModel:
    """Steadiness."""
    request.refuse(*UNUSED)
    model = FlickerReward(request.options.get("form", "neighbours"), request.options.get("scale", 1.0))
    return identify(model, request, form=model.form)


def motion_score(speed: Tensor, target: float, form: str) -> Tensor:
    """Score in [0, 1] of speeds `[batch]`: `near` is max(0, 1 − |v − t| / t), `floor` is min(1, v / t).

    A target keeps an optimised policy from the two ends: more motion without end shakes the camera, less makes stills.
    """
    if form == "floor":
        return (speed / target).clamp(max=1)
    return (1 - (speed - target).abs() / target).clamp(min=0)


class MotionReward(RewardModel):
    """Nearness of the speed of the fastest parts to a target; see `motion_and_flicker` and `motion_score`.

    Args:
        target: in shorter sides of the picture a second.
        form: `near`, or `floor` where faster is as good.
        factor: multiplies the score.
    """

    def __init__(self, target: float, form: str = "near", factor: float = 1.0) -> None:
        self.target, self.form, self.factor = target, form, factor

    @torch.no_grad()
    def score(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        speed, _ = motion_and_flicker(videos, self.frame_rate or SPEED_FPS)
        return {"overall": self.factor * motion_score(speed, self.target, self.form)}


class FlickerReward(RewardModel):
    """Steadiness in [0, 1]; a still video has 1.

    Args:
        form: `neighbours`, VBench's temporal flickering, or `unexplained`, of which motion takes nothing.
        factor: multiplies the score.
    """

    pixel_gradients = True

    def __init__(self, form: str = "neighbours", factor: float = 1.0) -> None:
        self.form, self.factor = form, factor

    @torch.no_grad()
    def score(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        return self.score_pixels(videos, as_list(prompts))

    def score_pixels(self, videos: Tensor, prompts: Sequence[str]) -> Scores:
        if self.form == "neighbours":
            steady = temporal_flickering(videos)
        else:
            steady = 1 - motion_and_flicker(videos, SPEED_FPS)[1]
        return {"overall": self.factor * steady}
