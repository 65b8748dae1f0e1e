"""Online direct preference optimisation."""

import pytest
import torch

from alignment.trainers.online_dpo_config import OnlineDPOConfig
from alignment.trainers.online_dpo_trainer import OnlineDPOTrainer, ranks_of_rewards
from generator.output import InputError
from reward.models.base import FunctionReward
from tests.alignment.trainers.policy_checks import (
    check_micro_batches,
    check_resuming,
    check_reward_rises,
    rollout_settings,
)


def make(generator, prompts, reward, quiet, **arguments):
    settings = rollout_settings(**{"beta": 50.0} | arguments)
    return OnlineDPOTrainer(generator, OnlineDPOConfig(**settings, **quiet), prompts, reward)


@pytest.mark.parametrize("loss_type", ["sigmoid", "plackett_luce"])
def test_it_raises_the_reward(generator, prompts, bright, quiet, loss_type):
    check_reward_rises(make(generator, prompts, bright, quiet, num_rollouts=30, loss_type=loss_type))


def test_resuming_equals_the_uninterrupted_run_bit_for_bit(make_generator, prompts, bright, quiet, tmp_path):
    check_resuming(lambda quiet: make(make_generator(), prompts, bright, quiet), quiet, tmp_path)


def test_micro_batches_do_not_change_the_update(make_generator, prompts, bright, quiet):
    check_micro_batches(lambda **arguments: make(make_generator(), prompts, bright, quiet, **arguments))


def test_ranks_follow_rewards_and_noise_is_a_tie():
    rewards = torch.tensor([[0.1, 0.9, 0.5], [0.5, 0.5 + 1e-6, 0.2], [0.3, 0.3, 0.3]])
    assert ranks_of_rewards(rewards).tolist() == [[2, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_groups_without_spread_teach_online_dpo_nothing(generator, prompts, quiet):
    same = FunctionReward(lambda videos, texts: torch.full((len(texts),), 0.3), "same")
    trainer = make(generator, prompts, same, quiet, num_rollouts=1, sft_weight=1.0)
    trainer.train()
    assert all((p == 0).all() for name, p in trainer.policy.named_parameters() if "lora_B" in name)


def test_the_videos_of_a_group_get_the_same_noise(generator, prompts, bright, quiet):
    trainer = make(generator, prompts, bright, quiet, loss_type="plackett_luce")
    rollout = trainer.make_rollout(0)
    noised, ranks = trainer.compared_videos(rollout, torch.tensor([0, 2]), torch.tensor([0, 1]))
    noise, sigma = noised.noise.reshape(2, 4, -1), noised.sigma.reshape(2, 4)
    assert torch.equal(noise, noise[:, :1].expand_as(noise))
    assert torch.equal(sigma, sigma[:, :1].expand_as(sigma))
    assert not torch.equal(noise[0], noise[1])
    assert noised.indices.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    assert torch.equal(ranks, ranks_of_rewards(rollout.rewards.reshape(4, 4)[[0, 2]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"beta": 0.0}, "beta is 0.0"),
    ],
)
def test_impossible_settings_are_refused(quiet, arguments, message):
    with pytest.raises(InputError, match=message):
        OnlineDPOConfig(**arguments, **quiet)
