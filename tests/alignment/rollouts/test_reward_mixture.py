"""Mixtures of reward models."""

import numpy as np
import pytest
import torch

from alignment.rollouts.reward_mixture import RewardMixture, mix_rewards
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from generator.output import InputError
from reward.models.base import FunctionReward


def rewards():
    return (
        torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
        * torch.tensor([1.0, 50.0])[:, None, None]
    )


def test_rewards_are_added_with_their_weights():
    first, second = rewards().numpy()
    found = mix_rewards(rewards(), torch.tensor([1.0, -0.5]), "none")
    assert np.allclose(found, first - 0.5 * second)


def test_normalisation_over_the_rollout_makes_scales_irrelevant():
    first, second = rewards().numpy()
    expected = (first - first.mean()) / first.std() + 2 * (second - second.mean()) / second.std()
    assert np.allclose(mix_rewards(rewards(), torch.tensor([1.0, 2.0]), "rollout"), expected, atol=2e-3)


def test_normalisation_in_the_group_adds_advantages():
    array = rewards().numpy()
    expected = ((array - array.mean(2, keepdims=True)) / (array.std(2, keepdims=True) + 1e-4)).sum(0)
    assert np.allclose(mix_rewards(rewards(), torch.ones(2), "group"), expected, atol=1e-5)


def test_a_rollout_decodes_once_for_all_rewards_and_logs_each(generator, prompts, bright, quiet):
    shapes = []
    dark = FunctionReward(
        lambda videos, texts: shapes.append(len(videos)) or -videos.mean((1, 2, 3, 4)), "dark"
    )
    motion = FunctionReward(
        lambda videos, texts: {"a": videos.std((1, 2, 3, 4)), "b": torch.zeros(len(texts))}, "motion"
    )
    config = PPOConfig(
        num_rollouts=1, num_prompts=2, num_generations=4, num_inference_steps=3, num_mini_batches=1,
        reward_weights=[1.0, 2.0, 0.5], monitor_videos=0, probe_prompts=0, sample_groups=False, **quiet,
    )  # fmt: skip
    decoded = []
    decode = generator.decode
    generator.decode = lambda latents: decoded.append(len(latents)) or decode(latents)
    trainer = PPOTrainer(generator, config, prompts, [bright, dark, motion])
    trainer.train()
    assert decoded == [8]
    assert shapes == [8]
    entry = next(e for e in trainer.state.log_history if "reward" in e)
    named = {name for name in entry if name.startswith("rewards/")}
    assert named == {f"rewards/{n}/mean" for n in ("bright/overall", "dark/overall", "motion/a", "motion/b")}
    rollout = trainer.rollout
    expected = (
        rollout.scores["bright/overall"]
        + 2 * rollout.scores["dark/overall"]
        + 0.25 * rollout.scores["motion/a"]
    )
    assert torch.allclose(rollout.rewards, expected, atol=1e-5)


def test_every_reward_needs_a_weight(bright):
    with pytest.raises(InputError, match="2 reward_weights were found for 1 reward"):
        RewardMixture([bright], [1.0, 2.0])
    with pytest.raises(InputError, match="No reward model"):
        RewardMixture([])


@pytest.mark.parametrize("given", [None, ["good", "bad"], {"overall": None}, [0.5], 0.5])
def test_a_function_that_gives_no_numbers_is_named(given):
    with pytest.raises(
        InputError, match=r"The reward function mine (gave|returned) .*: it must return one number a video"
    ):
        FunctionReward(lambda videos, prompts: given, "mine").score(torch.zeros(2, 3, 1, 4, 4), ["a", "b"])
