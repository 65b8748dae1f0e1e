"""Reward-weighted regression."""

import numpy as np
import pytest
import torch

from alignment.trainers.rwr_config import RWRConfig
from alignment.trainers.rwr_trainer import RWRTrainer, regression_weights
from generator.output import InputError
from tests.alignment.trainers.policy_checks import (
    check_micro_batches,
    check_resuming,
    check_reward_rises,
    rollout_settings,
)


def make(generator, prompts, reward, quiet, **arguments):
    settings = rollout_settings(**{"temperature": 0.5} | arguments)
    return RWRTrainer(generator, RWRConfig(**settings, **quiet), prompts, reward)


def test_it_raises_the_reward(generator, prompts, bright, quiet):
    check_reward_rises(make(generator, prompts, bright, quiet, num_rollouts=40))


def test_resuming_equals_the_uninterrupted_run_bit_for_bit(make_generator, prompts, bright, quiet, tmp_path):
    check_resuming(lambda quiet: make(make_generator(), prompts, bright, quiet), quiet, tmp_path)


def test_micro_batches_do_not_change_the_update(make_generator, prompts, bright, quiet):
    check_micro_batches(lambda **arguments: make(make_generator(), prompts, bright, quiet, **arguments))


def test_regression_weights_are_a_softmax_with_mean_one():
    advantages = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    found = regression_weights(advantages, 0.5).numpy()
    exponentials = np.exp(advantages.numpy() / 0.5)
    assert np.allclose(found, 3 * exponentials / exponentials.sum(1, keepdims=True))
    assert np.allclose(found[1], 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"num_draws": 0}, "num_draws is 0"),
    ],
)
def test_impossible_settings_are_refused(quiet, arguments, message):
    with pytest.raises(InputError, match=message):
        RWRConfig(**arguments, **quiet)
