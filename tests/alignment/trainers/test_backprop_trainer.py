"""Reward back-propagation."""

import pytest
import torch

from alignment.lora import LoraArguments
from alignment.trainers.backprop_config import BackpropConfig
from alignment.trainers.backprop_trainer import BackpropTrainer
from generator.output import InputError
from tests.alignment.trainers.policy_checks import check_resuming, check_reward_rises


def make(generator, prompts, reward, quiet, lora=None, **arguments):
    settings = {
        "num_inference_steps": 4, "max_steps": 12, "per_device_train_batch_size": 4, "learning_rate": 1e-2
    } | arguments  # fmt: skip
    return BackpropTrainer(generator, BackpropConfig(**settings, **quiet), prompts, reward, lora=lora)


@pytest.mark.parametrize(
    "arguments", [{}, {"backprop_steps": 3, "beta": 0.01}, {"backprop_steps": 3, "method": "refl"}]
)
def test_it_raises_the_reward(generator, prompts, bright, quiet, arguments):
    check_reward_rises(make(generator, prompts, bright, quiet, max_steps=20, **arguments))


def test_resuming_equals_the_uninterrupted_run_bit_for_bit(make_generator, prompts, bright, quiet, tmp_path):
    check_resuming(lambda quiet: make(make_generator(), prompts, bright, quiet), quiet, tmp_path)


def test_the_gradient_of_backprop_is_that_of_finite_differences(generator, prompts, bright, quiet):
    trainer = make(generator, prompts, bright, quiet, backprop_steps=4)
    weight = trainer.policy.transformer.blocks[0].to_v.lora_B["default"].weight
    weight.data.normal_(std=0.1, generator=torch.Generator().manual_seed(0))
    inputs = {"keys": torch.tensor([[0, 0], [1, 0]])}
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    gradient = weight.grad[1, 1].item()
    values = []
    for change in (0.02, -0.04):
        weight.data[1, 1] += change
        values.append(trainer.compute_loss(trainer.model, inputs).item())
    assert gradient == pytest.approx((values[0] - values[1]) / 0.04, rel=0.02)


def test_backprop_needs_a_reward_with_gradients(generator, prompts, bright, quiet):
    bright.scores_latents = False
    with pytest.raises(InputError, match="judge latents with gradients"):
        make(generator, prompts, bright, quiet)
    bright.scores_latents = True
    with pytest.raises(InputError, match="reference needs LoRA"):
        make(generator, prompts, bright, quiet, beta=1.0, lora=LoraArguments(use_peft=False))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_inference_steps": 4, "backprop_steps": 9}, "backprop_steps is 9"),
        ({"reward_normalisation": "group"}, "reward_normalisation is group, but must be left out"),
    ],
)
def test_impossible_settings_are_refused(quiet, arguments, message):
    with pytest.raises(InputError, match=message):
        BackpropConfig(**arguments, **quiet)
