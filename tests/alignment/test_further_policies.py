"""Reward-weighted regression, DiffusionNFT, online DPO and reward back-propagation."""

import numpy as np
import pytest
import torch

from alignment.lora import LoraArguments
from alignment.trainers.backprop_config import BackpropConfig
from alignment.trainers.backprop_trainer import BackpropTrainer
from alignment.trainers.nft_config import NFTConfig
from alignment.trainers.nft_trainer import NFTTrainer, nft_loss, optimality
from alignment.trainers.online_dpo_config import OnlineDPOConfig
from alignment.trainers.online_dpo_trainer import OnlineDPOTrainer, ranks_of_rewards
from alignment.trainers.rwr_config import RWRConfig
from alignment.trainers.rwr_trainer import RWRTrainer, regression_weights
from generator import flow
from generator.output import InputError
from reward.models.base import FunctionReward

TRAINERS = {
    "rwr": (RWRTrainer, RWRConfig, {"temperature": 0.5}),
    "nft": (NFTTrainer, NFTConfig, {"advantage_clip": 2.0}),
    "online_dpo": (OnlineDPOTrainer, OnlineDPOConfig, {"beta": 50.0}),
    "backprop": (BackpropTrainer, BackpropConfig, {}),
}


def make(kind, generator, prompts, reward, quiet, lora=None, **arguments):
    trainer_class, config_class, more = TRAINERS[kind]
    if kind == "backprop":
        settings = {"num_inference_steps": 4, "max_steps": 12, "per_device_train_batch_size": 4}
    else:
        settings = {
            "num_rollouts": 6, "num_prompts": 4, "num_generations": 4, "num_inference_steps": 4,
            "num_mini_batches": 2, "per_device_train_batch_size": 32,
        }  # fmt: skip
    config = config_class(**settings | {"learning_rate": 1e-2} | more | arguments, **quiet)
    return trainer_class(generator, config, prompts, reward, lora=lora)


def rewards_of(trainer):
    return [entry["reward"] for entry in trainer.state.log_history if "reward" in entry]


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("rwr", {"num_rollouts": 40}),
        ("nft", {"num_rollouts": 30}),
        ("online_dpo", {"num_rollouts": 30}),
        ("online_dpo", {"num_rollouts": 30, "loss_type": "plackett_luce"}),
        ("backprop", {"max_steps": 20}),
        ("backprop", {"max_steps": 20, "backprop_steps": 3, "beta": 0.01}),
        ("backprop", {"max_steps": 20, "backprop_steps": 3, "method": "refl"}),
    ],
)
def test_every_method_raises_the_reward(kind, arguments, generator, prompts, bright, quiet):
    trainer = make(kind, generator, prompts, bright, quiet, **arguments)
    trainer.train()
    rewards = rewards_of(trainer)
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.15


@pytest.mark.parametrize("kind", TRAINERS)
def test_resuming_equals_the_uninterrupted_run_bit_for_bit(
    kind, make_generator, prompts, bright, quiet, tmp_path
):
    quiet |= {"save_strategy": "steps", "save_steps": 6, "save_total_limit": None, "ema_decay": 0.9}
    whole = make(kind, make_generator(), prompts, bright, quiet)
    whole.train()
    torch.manual_seed(5)
    resumed = make(kind, make_generator(), prompts, bright, quiet | {"output_dir": str(tmp_path / "again")})
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-6"))
    assert whole.state.global_step == resumed.state.global_step == 12
    found = dict(resumed.policy.named_parameters())
    assert all(torch.equal(p, found[name]) for name, p in whole.policy.named_parameters())
    assert any((p != 0).any() for name, p in found.items() if "lora_B" in name)
    assert all(torch.equal(whole.ema.average[name], resumed.ema.average[name]) for name in whole.ema.average)


@pytest.mark.parametrize("kind", ["rwr", "nft", "online_dpo"])
def test_micro_batches_do_not_change_the_update(kind, make_generator, prompts, bright, quiet):
    results = []
    for size in (32, 2):
        trainer = make(
            kind, make_generator(), prompts, bright, quiet, num_rollouts=1, num_mini_batches=1,
            per_device_train_batch_size=size, optim="sgd", learning_rate=1.0, max_grad_norm=0.0,
        )  # fmt: skip
        trainer.train()
        results.append({n: p.detach() for n, p in trainer.policy.named_parameters() if p.requires_grad})
    assert all(torch.allclose(results[0][name], results[1][name], atol=1e-5) for name in results[0])
    assert any(value.abs().max() > 1e-3 for name, value in results[0].items() if "lora_B" in name)


def test_regression_weights_are_a_softmax_with_mean_one():
    advantages = torch.tensor([[1.0, 0.0, -1.0], [0.0, 0.0, 0.0]])
    found = regression_weights(advantages, 0.5).numpy()
    exponentials = np.exp(advantages.numpy() / 0.5)
    assert np.allclose(found, 3 * exponentials / exponentials.sum(1, keepdims=True))
    assert np.allclose(found[1], 1)


def test_optimality_is_a_probability():
    assert optimality(torch.tensor([-9.0, -2.0, 0.0, 1.0, 9.0]), 2.0).tolist() == [0, 0, 0.5, 0.75, 1]


def test_nft_at_the_sampling_policy_goes_where_flow_matching_of_the_advantage_goes():
    """There both branches are the same prediction, and the gradient is (2r − 1) times that of flow matching."""
    random = torch.Generator().manual_seed(0)
    x0, noise, old = torch.randn(3, 5, 2, 1, 2, 2, generator=random, dtype=torch.float64).unbind(0)
    sigma = torch.rand(5, generator=random)
    latents = flow.interpolate(x0, noise, sigma)
    probability = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    velocity = old.clone().requires_grad_()
    loss = nft_loss(velocity, old, latents, x0, sigma, probability, 0.7)
    (gradient,) = torch.autograd.grad(loss.sum(), velocity)
    error = flow.denoised(latents, old, sigma) - x0
    scale = error.flatten(1).abs().mean(1)
    factor = (2 * probability - 1) * 0.7 * -sigma * 2 / (scale * x0[0].numel())
    assert torch.allclose(gradient, factor[:, None, None, None, None] * error)


def test_nft_equals_its_formula_away_from_the_sampling_policy():
    random = torch.Generator().manual_seed(1)
    x0, noise, old, new = torch.randn(4, 3, 8, generator=random, dtype=torch.float64).unbind(0)
    sigma = torch.tensor([0.2, 0.5, 0.9])
    latents = flow.interpolate(x0, noise, sigma)
    r, beta = np.array([0.1, 0.6, 0.9]), 0.4
    expected = np.zeros(3)
    for weight, v in ((r, 0.6 * old + 0.4 * new), (1 - r, 1.4 * old - 0.4 * new)):
        error = (latents - sigma[:, None] * v - x0).numpy()
        expected += weight * (error**2).mean(1) / np.abs(error).mean(1)
    found = nft_loss(new, old, latents, x0, sigma, torch.tensor(r), beta)
    assert np.allclose(found.numpy(), expected, rtol=1e-6)


def test_nft_samples_from_the_average_and_leaves_the_live_weights_alone(generator, prompts, bright, quiet):
    trainer = make("nft", generator, prompts, bright, quiet, num_rollouts=3, old_decay_rate=0.2)
    starts = []
    update_old = trainer._update_old

    def spy(rollout):
        live = {name: p.detach().clone() for name, p in trainer._live.items()}
        before = {name: value.clone() for name, value in trainer._old.items()}
        update_old(rollout)
        starts.append((live, before))
        decay = 0.2 * rollout
        for name, value in trainer._old.items():
            assert torch.allclose(value, decay * before[name] + (1 - decay) * live[name], atol=1e-6)
            assert torch.equal(trainer._live[name], live[name])

    trainer._update_old = spy
    trainer.train()
    assert len(starts) == 3
    with trainer._sampling_policy():
        assert all(torch.equal(p, trainer._old[name]) for name, p in trainer._live.items())
    assert not all(torch.equal(p, trainer._old[name]) for name, p in trainer._live.items())


def test_ranks_follow_rewards_and_noise_is_a_tie():
    rewards = torch.tensor([[0.1, 0.9, 0.5], [0.5, 0.5 + 1e-6, 0.2], [0.3, 0.3, 0.3]])
    assert ranks_of_rewards(rewards).tolist() == [[2, 0, 1], [0, 0, 1], [0, 0, 0]]


def test_groups_without_spread_teach_online_dpo_nothing(generator, prompts, quiet):
    same = FunctionReward(lambda videos, texts: torch.full((len(texts),), 0.3), "same")
    trainer = make("online_dpo", generator, prompts, same, quiet, num_rollouts=1, sft_weight=1.0)
    trainer.train()
    assert all((p == 0).all() for name, p in trainer.policy.named_parameters() if "lora_B" in name)


def test_the_videos_of_a_group_get_the_same_noise_in_online_dpo(generator, prompts, bright, quiet):
    trainer = make("online_dpo", generator, prompts, bright, quiet, loss_type="plackett_luce")
    rollout = trainer._new_rollout(0)
    seen = []
    noised = trainer._noised
    trainer._noised = lambda *a, **k: seen.append(noised(*a, **k)) or seen[-1]
    trainer._rows_loss(trainer.model, rollout, torch.tensor([0, 5]), 0, 0)
    noise, sigma = seen[0].noise.reshape(2, 4, -1), seen[0].sigma.reshape(2, 4)
    assert torch.equal(noise, noise[:, :1].expand_as(noise))
    assert torch.equal(sigma, sigma[:, :1].expand_as(sigma))
    assert not torch.equal(noise[0], noise[1])
    assert seen[0].members.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]


def test_the_gradient_of_backprop_is_that_of_finite_differences(generator, prompts, bright, quiet):
    trainer = make("backprop", generator, prompts, bright, quiet, backprop_steps=4)
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
        make("backprop", generator, prompts, bright, quiet)
    bright.scores_latents = True
    with pytest.raises(InputError, match="reference needs LoRA"):
        make("backprop", generator, prompts, bright, quiet, beta=1.0, lora=LoraArguments(use_peft=False))


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("rwr", {"temperature": 0.0}, "temperature is 0.0"),
        ("rwr", {"num_draws": 0}, "num_draws is 0"),
        ("nft", {"guidance_strength": 2.0}, "guidance_strength is 2.0"),
        ("online_dpo", {"beta": 0.0}, "beta is 0.0"),
        ("backprop", {"backprop_steps": 9}, "backprop_steps is 9"),
        (
            "backprop",
            {"reward_normalisation": "group"},
            "reward_normalisation is group, but must be left out",
        ),
        ("nft", {"old_decay_rate": -1.0}, "old_decay_rate is -1"),
    ],
)
def test_impossible_settings_are_refused(kind, arguments, message, generator, prompts, bright, quiet):
    with pytest.raises(InputError, match=message):
        make(kind, generator, prompts, bright, quiet, **arguments)
