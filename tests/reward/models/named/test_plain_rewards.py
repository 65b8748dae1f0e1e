"""Rewards without weights: motion with a target, steadiness, the world."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from generator.output import InputError
from reward import load_reward
from reward.models.named.plain_rewards import motion_score


def moving_square(pixels_a_frame: int, frames: int = 5, side: int = 64) -> Tensor:
    """A bright square that moves to the right on a dark picture `[1, 3, frames, side, side]`."""
    video = -torch.ones(1, 3, frames, side, side)
    for index in range(frames):
        left = 8 + index * pixels_a_frame
        video[..., index, 24:40, left : left + 16] = 1
    return video


def test_motion_is_best_at_its_target_and_knows_the_frame_rate():
    reward = load_reward("motion:target=0.5")
    reward.set_frame_rate(16)  # 2 pixels a frame are 2/64 · 16 = 0.5 shorter sides a second
    scores = [reward.score(moving_square(speed), ["x"])["overall"].item() for speed in (0, 1, 2, 4)]
    assert scores == pytest.approx([0, 0.5, 1, 0], abs=1e-5)
    reward.set_frame_rate(8)
    assert reward.score(moving_square(4), ["x"])["overall"].item() == pytest.approx(1)
    floor = load_reward("motion:form=floor:target=0.5:scale=2")
    floor.set_frame_rate(16)
    assert [floor.score(moving_square(speed), ["x"])["overall"].item() for speed in (1, 4)] == pytest.approx(
        [1, 2]
    )
    assert motion_score(torch.tensor([0.0, 3.0]), 1.0, "near").tolist() == [0, 0]
    with pytest.raises(InputError, match="target above 0"):
        load_reward("motion:target=0")


def test_flicker_is_one_minus_what_changes():
    still, moves = moving_square(0), moving_square(2)
    flashes = still.clone()
    flashes[:, :, 1::2] = -1
    plain, unexplained = load_reward("flicker"), load_reward("flicker:form=unexplained")
    assert plain.score(still, ["x"])["overall"].item() == 1
    by_hand = 1 - (moves[:, :, 1:] - moves[:, :, :-1]).abs().mean().item() / 2
    assert plain.score(moves, ["x"])["overall"].item() == pytest.approx(by_hand)
    assert unexplained.score(moves, ["x"])["overall"].item() > plain.score(moves, ["x"])["overall"].item()
    assert unexplained.score(flashes, ["x"])["overall"].item() < 0.99
    shown = (0.5 * moves).requires_grad_()
    plain.score_pixels(shown, ["x"])["overall"].sum().backward()
    assert shown.grad.abs().max() > 0


def test_the_world_is_a_name_among_the_others():
    reward = load_reward("World")
    assert (reward.name, reward.scale) == ("world", (0.0, 1.0))
