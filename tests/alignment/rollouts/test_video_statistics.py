"""Statistics of videos that show a gamed reward."""

import math

import pytest
import torch

from alignment.rollouts.video_statistics import video_statistics
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer


def test_a_frozen_grey_video_has_no_motion_no_saturation_and_one_colour():
    found = video_statistics(torch.zeros(2, 3, 5, 8, 8))
    assert found["brightness"].tolist() == [0.5, 0.5]
    for name in ("motion", "saturation", "colour_entropy"):
        assert found[name].tolist() == [0, 0]


def test_statistics_equal_their_definitions():
    video = torch.full((1, 3, 2, 4, 4), -1.0)
    video[:, 0, 1] = 1.0  # black, then red
    found = {name: value.item() for name, value in video_statistics(video).items()}
    assert found["brightness"] == pytest.approx(1 / 6)
    assert found["motion"] == pytest.approx(1 / 3)
    assert found["saturation"] == pytest.approx(0.5)
    assert found["colour_entropy"] == pytest.approx(1)


def test_uniform_colours_have_the_largest_entropy():
    random = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 3, 8, 128, 128, generator=random) * 2 - 1
    assert video_statistics(noise)["colour_entropy"].item() == pytest.approx(math.log2(64), abs=0.01)
    assert video_statistics(noise[:, :, :1])["motion"].item() == 0


def test_ppo_logs_them(generator, prompts, bright, quiet):
    config = PPOConfig(num_rollouts=1, num_prompts=2, num_generations=2, num_inference_steps=3,
                       num_mini_batches=1, **quiet)  # fmt: skip
    trainer = PPOTrainer(generator, config, prompts, bright)
    trainer.train()
    entry = next(e for e in trainer.state.log_history if "reward" in e)
    videos = generator.decode(trainer.rollout.trajectories.final)
    for name, value in video_statistics(videos).items():
        assert entry[f"videos/{name}"] == pytest.approx(value.mean().item(), abs=1e-5)
