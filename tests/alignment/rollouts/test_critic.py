"""The value critic: GAE, what it learns, and PPO with it."""

import numpy as np
import pytest
import torch

from alignment.rollouts.advantages import generalised_advantages
from alignment.rollouts.critic import ValueCritic
from alignment.trainers.ppo_config import PPOConfig
from alignment.trainers.ppo_trainer import PPOTrainer
from generator.testing import tiny_generator


def test_gae_is_the_discounted_sum_of_the_errors_of_the_values():
    random = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(3, generator=random), torch.randn(3, 5, generator=random)
    advantages, returns = generalised_advantages(rewards, values, gamma=0.9, gae_lambda=0.8)
    for row in range(3):
        v = [*values[row].tolist(), 0.0]
        reward = [0.0] * 4 + [rewards[row].item()]
        deltas = [reward[t] + 0.9 * v[t + 1] - v[t] for t in range(5)]
        expected = [sum((0.9 * 0.8) ** (k - t) * deltas[k] for k in range(t, 5)) for t in range(5)]
        assert np.allclose(advantages[row], expected, atol=1e-5)
    assert torch.allclose(returns, advantages + values)


def test_with_lambda_and_gamma_one_the_returns_are_the_reward():
    rewards, values = torch.randn(4), torch.randn(4, 3)
    advantages, returns = generalised_advantages(rewards, values, 1.0, 1.0)
    assert torch.allclose(returns, rewards[:, None].expand(4, 3), atol=1e-6)
    assert torch.allclose(advantages, rewards[:, None] - values, atol=1e-6)


@pytest.mark.parametrize("trunk", ["own", "shared"])
def test_the_critic_learns_what_is_seen_in_the_latents(trunk):
    generator = tiny_generator()
    random = torch.Generator().manual_seed(0)
    latents = torch.randn(64, *generator.latent_shape(5, 16, 16), generator=random)
    brightness = torch.randn(64, generator=random)
    latents += brightness[:, None, None, None, None]
    conditions = generator.encode_prompts(["a ball"] * 64)
    critic = ValueCritic(generator, trunk, 3e-3, seed=0)
    inputs = critic.inputs(latents, torch.rand(64, generator=random), conditions)
    critic.set_scale(torch.tensor(5.0), torch.tensor(1.0))
    assert torch.allclose(critic.values(inputs), torch.tensor(5.0))
    error = critic.fit(inputs, 5 + brightness, 30, 16, random)
    assert error < 0.3
    assert (critic.values(inputs) - 5 - brightness).square().mean() < 0.3
    assert all(not p.requires_grad for p in generator.transformer.parameters())


def config(quiet, **arguments):
    settings = {
        "num_prompts": 4, "num_generations": 4, "num_inference_steps": 5, "num_mini_batches": 2,
        "per_device_train_batch_size": 32, "learning_rate": 1e-2, "beta": 0.001, "advantage": "critic",
    } | arguments  # fmt: skip
    return PPOConfig(**settings, **quiet)


def test_ppo_with_a_critic_raises_the_reward_and_the_critic_explains_it(generator, prompts, bright, quiet):
    trainer = PPOTrainer(generator, config(quiet, num_rollouts=25), prompts, bright)
    trainer.train()
    history = [entry for entry in trainer.state.log_history if "reward" in entry]
    rewards = [entry["reward"] for entry in history]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.2
    assert history[0]["value/explained_variance"] == pytest.approx(0, abs=1e-4)
    assert max(entry["value/explained_variance"] for entry in history) > 0.3
    assert trainer.rollout.advantages.shape == (16, 4)


def test_a_run_with_critic_and_adapted_beta_resumes_bit_for_bit(
    make_generator, prompts, bright, quiet, tmp_path
):
    quiet |= {"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}
    arguments = {"num_rollouts": 4, "adaptive_kl_target": 1e-4, "beta": 0.1}
    whole = PPOTrainer(make_generator(), config(quiet, **arguments), prompts, bright)
    whole.train()
    resumed = PPOTrainer(
        make_generator(),
        config(quiet | {"output_dir": str(tmp_path / "again")}, **arguments),
        prompts,
        bright,
    )
    resumed.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-4"))
    states = [{n: p for n, p in t.policy.named_parameters() if p.requires_grad} for t in (whole, resumed)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    critics = [trainer.critic.network.state_dict() for trainer in (whole, resumed)]
    assert all(torch.equal(critics[0][name], critics[1][name]) for name in critics[0])
    assert whole.beta == resumed.beta != 0.1
